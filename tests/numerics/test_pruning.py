"""The maths of pruning against plain references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mixmix.compress.prune.weights.allocation import allocate_by_rank, lamp_scores
from mixmix.compress.prune.weights.obs import prune_rows
from mixmix.compress.prune.weights.sparsity import sparsity_of
from mixmix.compress.recover.masked_least_squares import masked_least_squares
from mixmix.export.sparse import _from_gaps, _to_gaps
from mixmix.graph.layer_moments import grouped_rows, layer_columns, measure_moments
from mixmix.graph.masks import (
    Pattern,
    as_rows,
    from_rows,
    hold_masks,
    keep_largest,
    keep_n_of_m,
    set_zeros,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(count: int, width: int) -> Tensor:
    """Correlated columns of inputs (d, n)."""
    return draw(width, width, seed=1) @ draw(width, count, seed=2)


def test_least_squares_are_those_of_each_row_on_its_support() -> None:
    x, weight, kept = inputs(400, 12), draw(5, 12), draw(5, 12, seed=3) > 0
    targets = draw(5, 12, seed=4) @ x + draw(5, 400, seed=5)
    gram, cross = x @ x.T / 400, targets @ x.T / 400
    found = masked_least_squares(
        weight.double(), kept, gram.double(), cross.double(), ridge=0.0, iterations=60
    )
    for row in range(5):
        support = kept[row]
        wanted = torch.linalg.lstsq(x[support].T, targets[row]).solution
        assert torch.allclose(found[row, support].float(), wanted, atol=1e-3)
        assert not found[row, ~support].any()


def test_a_strong_ridge_leaves_weights_where_they_are() -> None:
    x, weight = inputs(50, 6), draw(3, 6)
    kept = torch.ones(3, 6, dtype=torch.bool)
    gram, cross = x @ x.T / 50, torch.zeros(3, 6)
    found = masked_least_squares(weight, kept, gram, cross, ridge=1e6, iterations=20)
    assert torch.allclose(found, weight, atol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 1), dilation=(2, 1), padding="same", groups=2),
        nn.Linear(8, 3),
    ],
)
def test_rows_times_columns_are_what_the_layer_gives(layer: nn.Conv2d | nn.Linear) -> None:
    x = draw(2, 4, 8, 8) if isinstance(layer, nn.Conv2d) else draw(2, 5, 8)
    columns = layer_columns(layer, x)
    outputs = torch.einsum("god,gnld->ngol", grouped_rows(layer, layer.weight), columns)
    wanted = layer(x).detach()
    assert layer.bias is not None
    bias = layer.bias.detach()
    if isinstance(layer, nn.Conv2d):
        wanted = (wanted - bias.view(-1, 1, 1)).flatten(2)
    else:
        wanted = (wanted - bias).transpose(1, 2)
    assert torch.allclose(outputs.flatten(1, 2), wanted, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    moments = measure_moments(layer, [(x, layer(x))], positions=None, generator=generator)
    assert torch.allclose(moments.input_mean, columns.mean((1, 2)), atol=1e-5)
    assert moments.num_positions == columns.shape[1] * columns.shape[2]
    chosen = torch.tensor([3, 1])
    assert torch.equal(layer_columns(layer, x, chosen), columns[:, :, chosen])
    few = measure_moments(layer, [(x, layer(x))], positions=2, generator=generator)
    assert few.num_positions == 2 * len(x)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_second_order_pruning_errs_less_than_magnitudes_do(pattern: str) -> None:
    x, weight = inputs(500, 32), draw(8, 32)
    gram, parsed = x @ x.T / 500, Pattern.parse(pattern)
    found, kept = prune_rows(weight, gram, sparsity=0.5, pattern=parsed, damping=1e-2)
    assert not found[~kept].any()
    assert int(kept.sum()) == kept.numel() // 2
    size = weight.abs()
    mask = keep_n_of_m(size, 2, 4) if parsed.is_grouped else keep_largest(size, size.numel() // 2)
    errors = [float(((w - weight) @ x).square().sum()) for w in (found, weight * mask)]
    assert errors[0] < 0.9 * errors[1]
    if parsed.is_grouped:
        assert (kept.unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_what_is_pruned_already_is_removed_by_second_order_pruning() -> None:
    weight, already_pruned = draw(4, 16), draw(4, 16, seed=3) > 0.5
    for pattern in ("unstructured", "2:4"):
        found, kept = prune_rows(
            weight,
            torch.eye(16),
            sparsity=0.5,
            pattern=Pattern.parse(pattern),
            damping=1e-2,
            already_pruned=already_pruned,
        )
        assert not (kept & already_pruned).any() and not found[already_pruned].any()


def test_groups_are_input_channels_at_one_place_of_a_kernel() -> None:
    weight = draw(2, 4, 3, 3)
    rows = as_rows(weight)
    assert torch.equal(rows[1, 4:8], weight[1, :, 0, 1])
    assert torch.equal(from_rows(rows, weight.shape), weight)
    kept = from_rows(keep_n_of_m(rows.abs(), 2, 4), weight.shape)
    assert (kept.sum(1) == 2).all()
    assert Pattern(2, 4).holds(kept) and not Pattern(1, 4).holds(kept)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_lamp_scores_follow_their_formula(power: float) -> None:
    weights = draw(3, 4)
    scores = lamp_scores(weights.abs(), power=power)
    for weight, score in zip(weights.flatten(), scores.flatten(), strict=True):
        left = weights[weights.abs() >= weight.abs()].square().sum()
        assert float(score) == pytest.approx(float(weight**2 / left**power), rel=1e-5)


def test_ranks_are_of_all_layers_and_leave_each_output_a_weight() -> None:
    scores = {"strong": 10 + draw(4, 20).abs(), "weak": draw(2, 10).abs()}
    assert allocate_by_rank(scores, 0.5) == {"strong": 48, "weak": 2}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_masks_hold_at_every_step_and_hooks_come_off(optimizer: str) -> None:
    layer = nn.Linear(6, 4)
    masks = {"weight": draw(4, 6) > 0}
    set_zeros(layer, masks)
    stepper: torch.optim.Optimizer = (
        torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
        if optimizer == "adamw"
        else torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    )
    before = layer.weight.detach().clone()
    with pytest.raises(RuntimeError, match="stop"), hold_masks(layer, masks):
        for step in range(5):
            layer(draw(8, 6, seed=step)).square().sum().backward()
            stepper.step()
            stepper.zero_grad()
            assert not layer.weight[~masks["weight"]].any()
        raise RuntimeError("stop")
    assert not layer.weight._backward_hooks
    assert (layer.weight != before)[masks["weight"]].all()
    assert sparsity_of(layer).total == pytest.approx(float((~masks["weight"]).float().mean()))


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(0, 1200))
def test_gaps_tell_where_weights_are(flags: list[bool], hole: int) -> None:
    kept = torch.tensor([*flags, *[False] * hole, *flags])
    assert torch.equal(_from_gaps(_to_gaps(kept), len(kept)), kept)
