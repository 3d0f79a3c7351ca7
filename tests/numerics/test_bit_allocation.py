"""The integer program against trying every choice, on tables small enough for that."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixmix.compress.quantize.bit_allocation import Budget, allocate_bits
from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.sensitivity_table import LayerSensitivity, SensitivityTable
from mixmix.errors import InputError

CHOICES = ("W2A4", "W2A8", "W4A8", "W8A8")


@st.composite
def tables(draw: st.DrawFn) -> SensitivityTable:
    layers = []
    for index in range(draw(st.integers(1, 4))):
        choices = draw(st.sampled_from([CHOICES, CHOICES[1:], ("W8A8",)]))
        increases = draw(
            st.lists(
                st.one_of(st.just(0.0), st.floats(1e-6, 10.0)),
                min_size=len(choices),
                max_size=len(choices),
            )
        )
        layers.append(
            LayerSensitivity(
                name=f"layer{index}",
                num_weights=draw(st.integers(1, 5000)),
                macs=draw(st.integers(0, 10**6)),
                input_group=draw(st.integers(0, index)),
                divergence=dict(zip(choices, increases, strict=True)),
            )
        )
    num_floats = draw(st.integers(0, 100))
    num_parameters = sum(layer.num_weights for layer in layers) + num_floats
    return SensitivityTable("tiny", tuple(layers), num_parameters, num_floats, 8, 0)


def all_choices(table: SensitivityTable) -> Iterator[dict[str, str]]:
    for several in itertools.product(*(layer.divergence for layer in table.layers)):
        activation_bits: dict[int, set[int]] = {}
        for layer, bits in zip(table.layers, several, strict=True):
            activation_bits.setdefault(layer.input_group, set()).add(parse_bits(bits)[1])
        if all(len(bits) == 1 for bits in activation_bits.values()):
            yield {layer.name: bits for layer, bits in zip(table.layers, several, strict=True)}


@given(tables(), st.floats(0.01, 0.3), st.booleans())
def test_no_choice_within_the_budget_is_better(
    table: SensitivityTable, ratio: float, is_size: bool
) -> None:
    if is_size:
        budget, cost = Budget(max_size_ratio=ratio), table.size_bytes
    else:
        budget, cost = Budget(max_bitops_ratio=ratio / 8), table.bitops
    feasible = [bits for bits in all_choices(table) if cost(bits) <= budget.limit(table)]
    if not feasible:
        with pytest.raises(InputError, match="needs at least"):
            allocate_bits(table, budget)
        return
    bits = allocate_bits(table, budget)
    assert bits in feasible
    best = min(map(table.divergence, feasible))
    assert table.divergence(bits) <= best + 1e-6 * max(1.0, best)


@given(tables(), st.booleans())
def test_the_smallest_budget_can_be_met(table: SensitivityTable, is_size: bool) -> None:
    cost = table.size_bytes if is_size else table.bitops
    least = min(map(cost, all_choices(table)))
    if least == 0:  # layers without operations
        return

    def budget(limit: int) -> Budget:
        if is_size:
            return Budget(max_size_bytes=limit)
        return Budget(max_bitops_ratio=(limit + 0.5) / table.float_bitops)  # rounded down

    exact = budget(least)
    assert cost(allocate_bits(table, exact)) == least
    if least > 1:
        with pytest.raises(InputError, match=f"needs at least {least:,}"):
            allocate_bits(table, budget(least - 1))


def test_layers_that_share_an_input_need_a_choice_in_common() -> None:
    layers = (
        LayerSensitivity("a", 10, 10, 0, {"W4A4": 0.1}),
        LayerSensitivity("b", 10, 10, 0, {"W4A8": 0.1}),
    )
    with pytest.raises(InputError, match="a, b share an input"):
        allocate_bits(SensitivityTable("m", layers, 20, 0, 8, 0), Budget(max_size_ratio=1.0))


def test_budgets() -> None:
    with pytest.raises(InputError, match="exactly one of .*got none"):
        Budget()
    with pytest.raises(InputError, match="got max_size_ratio, max_bitops_ratio"):
        Budget(max_size_ratio=0.1, max_bitops_ratio=0.1)
    with pytest.raises(InputError, match="max_bitops_ratio must be above 0 and at most 1, got 8"):
        Budget(max_bitops_ratio=8)
    with pytest.raises(InputError, match="max_size_bytes must be above 0, got 0"):
        Budget(max_size_bytes=0)


@pytest.mark.parametrize(("num_weights", "size"), [(8, 3), (9, 4), (10, 4), (11, 5)])
def test_a_part_of_a_byte_takes_a_byte(num_weights: int, size: int) -> None:
    layer = LayerSensitivity("layer", num_weights, 1, 0, {"W3A8": 0.0})
    table = SensitivityTable("model", (layer,), num_weights, 0, 1, 0)
    assert table.size_bytes({"layer": "W3A8"}) == size
