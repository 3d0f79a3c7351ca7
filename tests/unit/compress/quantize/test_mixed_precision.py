"""Mixed precision as a method."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec

from mixmix import Compressed, ImageSet, Quantize, compress
from mixmix.compress.quantize.mixed_precision import MixedPrecision
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.compress.quantize.sensitivity_table import SensitivityTable
from mixmix.errors import InputError

QUANTIZE = Quantize(reconstruction=ReconstructionSettings(iterations=3, batch_size=8))


def compressed(family: str, **options: object) -> Compressed:
    pixels = torch.rand(24, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(24) % NUM_CLASSES
    data = ImageSet(pixels, labels, torch.full((24, NUM_CLASSES), 1 / NUM_CLASSES), {})
    method = MixedPrecision(**{"quantize": QUANTIZE, **options})  # type: ignore[arg-type]
    return compress((tiny_network(family), tiny_spec(family)), data, method, seed=0)


@pytest.mark.parametrize("family", ["residual", "depthwise", "concat"])
@pytest.mark.parametrize("budget", [{"max_size_ratio": 0.25}, {"max_bitops_ratio": 0.04}])
def test_the_layers_have_the_bits_that_the_record_says(
    family: str, budget: dict[str, float]
) -> None:
    choices = ("W2A4", "W4A4", "W4A8", "W8A8")
    model = compressed(family, choices=choices, **budget)
    mixed, quantize = json.loads(json.dumps([model.applied[0].results, model.settings[1]]))
    table, bits = SensitivityTable.from_dict(mixed["sensitivity"]), mixed["layer_bits"]
    found = {
        record.name: f"W{record.weight_bits}A{record.activation_bits}"
        for record in model.records
        if record.action == "quantized"
    }
    assert found == bits == quantize["layer_bits"]
    if "max_size_ratio" in budget:
        assert table.size_bytes(bits) <= 0.25 * table.float_size_bytes
    else:
        assert table.bitops(bits) <= 0.04 * table.float_bitops
    assert len(set(bits.values())) > 1


def test_budgets_too_small_are_refused_with_the_smallest() -> None:
    with pytest.raises(InputError, match="needs at least .* a ratio of 0") as error:
        compressed("plain", max_size_ratio=0.01)
    ratio = float(str(error.value).partition("a ratio of ")[2].partition(";")[0])
    bits = compressed("plain", max_size_ratio=ratio).applied[0].results["layer_bits"]
    assert list(bits.values()) == ["W8A8", "W2A8", "W2A8", "W8A8"]


def test_settings_are_checked_and_hash() -> None:
    assert hash(MixedPrecision(max_size_ratio=0.1)) == hash(MixedPrecision(max_size_ratio=0.1))
    with pytest.raises(InputError, match="exactly one"):
        MixedPrecision()
    with pytest.raises(InputError, match="bits must look like"):
        MixedPrecision(max_size_ratio=0.1, choices=("int8",))
    with pytest.raises(InputError, match="choices is empty"):
        MixedPrecision(max_size_ratio=0.1, choices=())
    with pytest.raises(InputError, match="num_images"):
        MixedPrecision(max_size_ratio=0.1, num_images=1)
