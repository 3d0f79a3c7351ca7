"""Sensitivities: what is measured, and what each layer may have."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_networks import INPUT_SHAPE, NETWORKS, NUM_CLASSES, tiny_network, tiny_spec
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import ImageSet, Quantize
from mixmix.compress.divergence import mean_divergence
from mixmix.compress.quantize.quantizers import search_activation_range, search_weight_grid
from mixmix.compress.quantize.sensitivity import measure_sensitivity
from mixmix.compress.quantize.sensitivity_table import SensitivityTable
from mixmix.errors import DataError, InputError
from mixmix.graph.capture import capture
from mixmix.graph.costs import count_macs
from mixmix.graph.fold import fold_batch_norms
from mixmix.models.model import normalize
from mixmix.report.sensitivity import print_sensitivity

CHOICES = ("W2A8", "W4A8", "W8A8")


def images(count: int = 24) -> ImageSet:
    pixels = torch.rand(count, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % NUM_CLASSES
    return ImageSet(pixels, labels, torch.full((count, NUM_CLASSES), 1 / NUM_CLASSES), {})


def measured(family: str, **options: object) -> SensitivityTable:
    model = (tiny_network(family), tiny_spec(family))
    return measure_sensitivity(model, images(), **{"choices": CHOICES, "seed": 0, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("family", sorted(NETWORKS))
def test_every_layer_is_measured_and_bits_help(family: str) -> None:
    model = tiny_network(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = measure_sensitivity(
        (model, tiny_spec(family)),
        images(),
        choices=CHOICES,
        seed=0,
        quantize=Quantize(first_last_bits=None),
    )
    kinds = (nn.Conv2d, nn.Linear)
    names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    assert sorted(layer.name for layer in table.layers) == sorted(names)
    assert all(tuple(layer.divergence) == CHOICES for layer in table.layers)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert sum(layer.macs for layer in table.layers) == count_macs(model, INPUT_SHAPE)
    for bits in ("W2A8", "W4A8"):
        assert sum(layer.divergence["W8A8"] for layer in table.layers) < sum(
            layer.divergence[bits] for layer in table.layers
        )


def test_one_layer_is_quantized_and_all_else_is_float() -> None:
    x = normalize(images().images, tiny_spec("residual"))
    graph = capture(tiny_network("residual"), x[:4])
    fold_batch_norms(graph, x[:4])
    name = "2.body.1.0"
    layer = graph.get_submodule(name)
    with torch.no_grad():
        expected = graph(x)

        def quantized(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            found = search_activation_range(args[0], 4)
            q = (args[0] / found.scale).round() + found.zero_point
            return ((q.clamp(0, 15) - found.zero_point) * found.scale,)

        assert isinstance(layer, nn.Conv2d)
        grid = search_weight_grid(layer.weight, 3)
        layer.weight.copy_(grid.value(grid.nearest(layer.weight)))
        layer.register_forward_pre_hook(quantized)
        p, log_q = expected.double().softmax(1), graph(x).double().log_softmax(1)
        by_hand = float(F.kl_div(log_q, p, reduction="batchmean"))
    table = measured("residual", choices=("W3A4",))
    (found,) = [one for one in table.layers if one.name == name]
    assert found.divergence["W3A4"] == pytest.approx(by_hand, rel=1e-3)


def test_divergence_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, others = (torch.randn(50, 7, generator=generator) for _ in range(2))
    expected = F.kl_div(others.log_softmax(1), logits.softmax(1), reduction="batchmean")
    assert mean_divergence(logits, others) == pytest.approx(float(expected), rel=1e-5)
    assert mean_divergence(logits, logits + 3) == pytest.approx(0, abs=1e-12)


def test_bits_that_are_given_leave_no_choice() -> None:
    table = measured("plain")
    assert [tuple(layer.divergence) for layer in table.layers] == [
        ("W8A8",),
        CHOICES,
        CHOICES,
        ("W8A8",),
    ]
    name = table.layers[1].name
    table = measured("plain", quantize=Quantize(first_last_bits=4, layer_bits={name: "W3A3"}))
    assert [tuple(layer.divergence) for layer in table.layers] == [
        ("W4A4",),
        ("W3A3",),
        CHOICES,
        ("W4A4",),
    ]


def test_layers_behind_one_tensor_share_their_activation_bits() -> None:
    # The first convolution of a block and its shortcut read the same tensor.
    choices = ("W4A4", "W4A8")
    groups = {
        layer.name: layer.input_group for layer in measured("residual", choices=choices).layers
    }
    assert groups["2.body.0.0"] == groups["2.shortcut.0"] != groups["2.body.1.0"]
    table = measured(
        "residual", choices=choices, quantize=Quantize(layer_bits={"2.shortcut.0": "W2A4"})
    )
    found = {layer.name: tuple(layer.divergence) for layer in table.layers}
    assert found["2.body.0.0"] == ("W4A4",) and found["2.shortcut.0"] == ("W2A4",)
    assert found["2.body.1.0"] == choices


def test_what_is_concatenated_is_an_input_of_its_own() -> None:
    table = measured("concat")
    assert len({layer.input_group for layer in table.layers}) == len(table.layers)


def test_size_and_operations_by_hand() -> None:
    # Convolutions 3 -> 8 and 8 -> 16 of 3 x 3 on 16 x 16 at stride 2 each, a linear layer 16 -> 4.
    table = measured("no-batch-norm")
    bits = dict(zip([layer.name for layer in table.layers], ("W8A8", "W2A8", "W8A8"), strict=True))
    weights = (3 * 8 * 9, 8 * 16 * 9, 16 * 4)
    outputs = 8 + 16 + 4
    assert table.num_parameters == sum(weights) + outputs
    assert table.num_floats == 2 * outputs  # biases and scales
    packed = (weights[0] * 8 + weights[1] * 2 + weights[2] * 8) // 8
    assert table.size_bytes(bits) == packed + 4 * 2 * outputs
    assert table.float_size_bytes == 4 * (sum(weights) + outputs)
    macs = (weights[0] * 64, weights[1] * 16, weights[2])
    assert table.bitops(bits) == macs[0] * 64 + macs[1] * 16 + macs[2] * 64
    assert table.float_bitops == sum(macs) * 1024


def test_batch_norm_that_is_folded_costs_nothing() -> None:
    table = measured("plain", quantize=Quantize(per_channel=False))
    outputs = [8, 8, 16, NUM_CLASSES]
    assert table.num_floats == sum(outputs) + len(table.layers)


def test_the_seed_chooses_the_images() -> None:
    one, same, other = (measured("plain", num_images=8, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.layers[1].divergence != other.layers[1].divergence


def test_tables_survive_the_disk(tmp_path: Path) -> None:
    table = measured("plain")
    assert SensitivityTable.load(table.save(tmp_path / "table.json")) == table
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="is not a table of sensitivities"):
        SensitivityTable.load(tmp_path / "other.json")
    with pytest.raises(DataError, match="not a table of sensitivities .*layers"):
        SensitivityTable.from_dict({})


def test_printed() -> None:
    table = measured("plain")
    text = io.StringIO()
    chosen = {layer.name: next(iter(layer.divergence)) for layer in table.layers}
    print_sensitivity(table, Console(file=text, width=20), layer_bits=chosen)
    lines = text.getvalue().splitlines()
    assert lines[0].split() == ["Layer", "Weights", "MACs", *CHOICES]
    assert len(lines) == 1 + len(table.layers)
    assert lines[1].split()[:5] == ["0.0", "216", "55,296", "–", "–"]


def test_errors() -> None:
    with pytest.raises(InputError, match="choices is empty"):
        measured("plain", choices=())
    with pytest.raises(InputError, match="bits must look like"):
        measured("plain", choices=("W1A8",))
    with pytest.raises(InputError, match="num_images must be at least 2"):
        measured("plain", num_images=1)
    with pytest.raises(InputError, match="no convolution or linear layer is called 'nowhere'"):
        measured("plain", quantize=Quantize(layer_bits={"nowhere": "W4A8"}))
    spec = replace(tiny_spec("plain"), num_classes=0)
    with pytest.raises(InputError, match="has no label head"):
        measure_sensitivity((tiny_network("plain"), spec), images(), seed=0)
    with pytest.raises(InputError, match="no convolution or linear layer"):
        empty = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
        spec = replace(tiny_spec("plain"), num_classes=3)
        measure_sensitivity((empty, spec), images(), seed=0)
