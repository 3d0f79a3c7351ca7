"""What pruning of channels promises, on networks of every family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_images, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import (
    Compressed,
    Prune,
    PruneChannels,
    Quantize,
    QuantizeAware,
    ReconstructFeatures,
    TrainingSettings,
    compress,
    export,
    sparsity_of,
)
from mixmix.compress.prune import latency as pruned_latency
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import InputError
from mixmix.graph.costs import count_macs, count_parameters
from mixmix.graph.quantized import QuantizedLayer
from mixmix.models.model import normalize
from mixmix.runtimes.session import OnnxSession

# Torch-Pruning takes a shuffle for an elementwise operation, which is found out.
PRUNABLE = sorted(set(NETWORKS) - {"shuffle"})
DATA = tiny_images(128)
families = pytest.mark.parametrize("family", PRUNABLE)


def pruned(family: str, **options: object) -> Compressed:
    method = PruneChannels(**{"max_macs": 0.6, "round_to": 1, "recovery": (), **options})  # type: ignore[arg-type]
    return compress((tiny_network(family), tiny_spec(family)), tiny_images(), method, seed=0)


def logits(model: nn.Module, family: str) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(normalize(tiny_images().images, tiny_spec(family)))
    return out


@families
@pytest.mark.parametrize("importance", ["obs", "taylor", "magnitude"])
def test_the_result_is_within_the_budget(family: str, importance: str) -> None:
    compressed = pruned(family, importance=importance)
    ratio = count_macs(compressed.module, INPUT_SHAPE) / count_macs(
        tiny_network(family), INPUT_SHAPE
    )
    assert 0.45 < ratio <= 0.6
    assert compressed.applied[0].results["macs_ratio"] == ratio
    assert logits(compressed.module, family).isfinite().all()


@families
def test_parameters_are_a_budget_too(family: str) -> None:
    compressed = pruned(family, max_macs=None, max_parameters=0.5)
    ratio = count_parameters(compressed.module) / count_parameters(tiny_network(family))
    assert 0.35 < ratio <= 0.5
    assert compressed.applied[0].results["parameters_ratio"] == ratio


@families
def test_records_say_what_every_layer_has_left(family: str) -> None:
    compressed = pruned(family)
    modules = dict(compressed.module.named_modules())
    assert {record.name for record in compressed.records} == {
        name
        for name, module in tiny_network(family).named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    for record in compressed.records:
        assert record.out_channels is not None and record.in_channels is not None
        layer = modules[record.name]
        if isinstance(layer, nn.Conv2d):
            assert (layer.in_channels, layer.out_channels) == (
                record.in_channels[1],
                record.out_channels[1],
            )
        changed = record.in_channels[0] > record.in_channels[1]
        changed |= record.out_channels[0] > record.out_channels[1]
        assert record.action == ("pruned" if changed else "skipped")
        assert changed or record.reason
    first, last = compressed.records[0], compressed.records[-1]
    assert first.in_channels == (3, 3) and last.out_channels == (4, 4)


@families
def test_callers_model_is_unchanged_and_the_seed_decides(family: str) -> None:
    model = tiny_network(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    method = PruneChannels(max_macs=0.7, round_to=1, recovery=())
    first = compress((model, tiny_spec(family)), tiny_images(), method, seed=3)
    torch.rand(7)  # draws elsewhere must not matter
    second = compress((model, tiny_spec(family)), tiny_images(), method, seed=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    one, other = first.module.state_dict(), second.module.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not first.module.training
    assert not any(parameter.requires_grad for parameter in first.module.parameters())


@pytest.mark.parametrize("family", ["concat", "grouped-excitation"])
def test_exports_to_a_file_that_agrees(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compressed = pruned(family)
    artifact = export(compressed, tmp_path_factory.mktemp("onnx") / "pruned.onnx")
    images = normalize(tiny_images().images, tiny_spec(family))
    torch.testing.assert_close(
        OnnxSession(artifact.path).run(images), logits(compressed.module, family), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("family", ["depthwise", "grouped-excitation"])
def test_what_is_left_can_be_quantized(family: str) -> None:
    methods = [
        PruneChannels(max_macs=0.6, round_to=1, recovery=()),
        Quantize("W4A4", reconstruction=ReconstructionSettings(iterations=5, batch_size=8)),
    ]
    compressed = compress((tiny_network(family), tiny_spec(family)), tiny_images(), methods, seed=0)
    assert [settings["method"] for settings in compressed.settings] == [
        "prune-channels",
        "quantize",
    ]
    assert any(isinstance(module, QuantizedLayer) for module in compressed.module.modules())
    layers = [record for record in compressed.records if record.action == "quantized"]
    assert any(r.out_channels and r.out_channels[0] > r.out_channels[1] for r in layers)


@families
def test_recovery_knows_which_channels_are_left(family: str) -> None:
    teacher = tiny_network(family)
    wanted = logits(teacher, family)
    steps = (ReconstructFeatures(iterations=30, batch_size=8, views=64),)
    errors = [
        (logits(pruned(family, recovery=recovery).module, family) - wanted).square().mean()
        for recovery in ((), steps)
    ]
    assert errors[1] < errors[0]


@families
def test_the_original_is_known_to_what_follows(family: str) -> None:
    first = pruned(family)
    assert first.original is not None
    twice = PruneChannels(max_macs=0.9, round_to=1, recovery=())
    then = Prune(0.3, recovery=(ReconstructFeatures(iterations=2, views=64),))
    after = [
        method.apply(first, tiny_images(), seed=0, on_progress=lambda what, share: None)
        for method in (twice, then)
    ]
    inputs = normalize(tiny_images().images, tiny_spec(family))
    whole = tiny_network(family)(inputs)
    for result in (first, *after):
        assert result.original is not None
        assert torch.allclose(result.original(inputs), whole, atol=1e-5)
        layers = dict(result.module.named_modules())
        originals = dict(result.original.named_modules())
        for name, kept in result.kept_channels.items():
            assert int(kept.max()) < len(next(originals[name].parameters()))
            assert len(kept) == len(next(layers[name].parameters()))
            assert torch.equal(kept, kept.unique())
    # What went before does not come back.
    for name, kept in after[0].kept_channels.items():
        assert set(kept.tolist()) <= set(first.kept_channels.get(name, kept).tolist())


def test_quantization_aware_training_learns_from_the_original() -> None:
    smaller = PruneChannels(max_macs=0.6, round_to=1, recovery=())
    training = TrainingSettings(steps=200, batch_size=16)

    def distance(*, from_original: bool) -> float:
        first = compress((tiny_network("residual"), tiny_spec("residual")), DATA, smaller, seed=0)
        if not from_original:
            first = replace(first, original=None, kept_channels={})
        aware = QuantizeAware(Quantize("W4A4"), training, held_out=0)
        result = aware.apply(first, DATA, seed=0, on_progress=lambda what, share: None)
        inputs = normalize(DATA.images, tiny_spec("residual"))
        return float(
            (result.module(inputs) - tiny_network("residual")(inputs)).detach().abs().mean()
        )

    assert distance(from_original=True) < 0.9 * distance(from_original=False)


def test_single_weights_come_after_channels() -> None:
    prune = Prune(0.5, recovery=())
    channels = PruneChannels(max_macs=0.6, round_to=1, recovery=())
    pair = (tiny_network("residual"), tiny_spec("residual"))
    both = compress(pair, tiny_images(), [channels, prune], seed=0)
    assert sparsity_of(both.module).total > 0.3
    assert any(r.sparsity and r.out_channels and len(set(r.out_channels)) > 1 for r in both.records)
    with pytest.raises(InputError, match="apply PruneChannels before Prune"):
        compress(pair, tiny_images(), [prune, channels], seed=0)


def test_shuffled_channels_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"shuffle has no channels that can be pruned: .*4\.body"):
        pruned("shuffle")


def test_groups_without_end_are_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixmix.graph.channels.dependencies._ITEMS_PER_NODE", 0)
    with pytest.raises(InputError, match="residual has no channels that can be pruned") as caught:
        pruned("residual")
    assert str(caught.value).count("without end") == 1


def test_impossible_budgets_are_refused_with_the_smallest() -> None:
    with pytest.raises(InputError, match="leave at least 0") as error:
        pruned("plain", max_macs=0.01)
    least = float(str(error.value).partition("leave at least ")[2].partition(";")[0])
    assert pruned("plain", max_macs=least).applied[0].results["macs_ratio"] <= least


def test_widths_are_parts_of_a_block_only_where_the_budget_asks_for_it() -> None:
    with pytest.raises(InputError, match="round_to=8") as error:
        pruned("plain", max_macs=0.01, round_to=8)
    least = float(str(error.value).partition("leave at least ")[2].partition(";")[0])

    def widths(share: float) -> set[int]:
        records = pruned("plain", max_macs=share, round_to=None).records
        return {record.out_channels[1] for record in records[:-1] if record.out_channels}

    assert all(width % 8 == 0 for width in widths(least))
    assert any(width % 8 for width in widths(0.9 * least))
    with pytest.raises(InputError, match="round_to=1 "):
        pruned("plain", max_macs=0.01, round_to=None)


def test_groups_keep_less_than_a_quarter_only_where_the_budget_asks_for_it() -> None:
    with pytest.raises(InputError, match=r"min_fraction=0\.25") as error:
        pruned("plain", max_macs=0.01, min_fraction=0.25)
    least = float(str(error.value).partition("leave at least ")[2].partition(";")[0])
    quick = {"recovery": ReconstructFeatures(least_squares=1, iterations=0, views=0)}
    quarter, less = (pruned("plain", max_macs=share, **quick) for share in (least, 0.9 * least))
    assert quarter.applied[0].results["macs_ratio"] <= least
    assert less.applied[0].results["macs_ratio"] <= 0.9 * least
    with pytest.raises(InputError, match=r"min_fraction=0\.1"):
        pruned("plain", max_macs=0.01, **quick)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(16, affine=False),
        nn.BatchNorm2d(16, affine=False, track_running_stats=False),
        nn.InstanceNorm2d(16),
    ],
)
def test_normalizations_without_weights(norm: nn.Module) -> None:
    layers = [nn.Conv2d(3, 16, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(16, 4))
    network(tiny_images().images)  # running statistics
    network.eval()
    method = PruneChannels(
        max_macs=0.6, round_to=1, recovery=ReconstructFeatures(iterations=2, views=0)
    )
    compressed = compress((network, tiny_spec("plain")), tiny_images(), method, seed=0)
    (width,) = {m.out_channels for m in compressed.module.modules() if isinstance(m, nn.Conv2d)}
    assert width < 16
    assert logits(compressed.module, "plain").isfinite().all()


def test_quantized_networks_and_backbones_are_refused() -> None:
    methods = [Quantize("W8A8"), PruneChannels(max_macs=0.6)]
    with pytest.raises(InputError, match="is quantized already"):
        compress((tiny_network("plain"), tiny_spec("plain")), tiny_images(), methods, seed=0)
    backbone = (tiny_network("plain"), tiny_spec("plain", num_classes=0))
    with pytest.raises(InputError, match="no label head"):
        compress(backbone, tiny_images(), PruneChannels(max_macs=0.6), seed=0)
    method = PruneChannels(max_macs=0.6, round_to=1, importance="magnitude", recovery=())
    assert compress(backbone, tiny_images(), method, seed=0).applied[0].results["macs_ratio"] <= 0.6


def test_latency_is_searched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # A file's time stands for the multiplications here, since real times depend on the machine.
    def counted(module: nn.Module, *_: object, **__: object) -> bytes:
        return bytes(count_macs(module, INPUT_SHAPE))

    def sizes(paths: list[Path], **_: object) -> dict[str, float]:
        return {str(path): float(path.stat().st_size) for path in paths}

    monkeypatch.setattr(pruned_latency, "float_onnx_bytes", counted)
    monkeypatch.setattr(pruned_latency, "compare_latency_ms", sizes)
    compressed = pruned("residual", max_macs=None, max_latency=0.7)
    assert 0.6 < compressed.applied[0].results["latency_ratio"] <= 0.7
    with pytest.raises(InputError, match=r"cannot be pruned to 0\.01 of its latency"):
        pruned("residual", max_macs=None, max_latency=0.01)
    both = pruned("residual", max_macs=0.4, max_latency=0.7).applied[0].results
    assert both["latency_ratio"] == pytest.approx(both["macs_ratio"], abs=1e-3)
    assert 0.3 < both["macs_ratio"] <= 0.4
    both = pruned("residual", max_macs=0.7, max_latency=0.4).applied[0].results
    assert 0.3 < both["latency_ratio"] <= 0.4
    # Too narrow for blocks of 8.
    narrow = pruned("residual", max_macs=None, max_latency=0.2, round_to=None).applied[0].results
    assert narrow["latency_ratio"] <= 0.2


def test_settings_are_checked_and_hash() -> None:
    assert hash(PruneChannels(max_macs=0.5)) == hash(PruneChannels(max_macs=0.5))
    for options, message in (
        ({}, "set at least one of max_macs, max_parameters, max_latency; got none"),
        ({"max_macs": 0.5, "max_parameters": 0.5}, "max_macs or max_parameters, not both"),
        ({"max_macs": 0.5, "max_latency": 1.5}, "max_latency must be between 0 and 1"),
        ({"max_macs": 1.5}, "max_macs must be between 0 and 1"),
        ({"max_macs": 0.5, "importance": "random"}, "importance must be one of"),
        ({"max_macs": 0.5, "round_to": 0}, "round_to"),
        ({"max_macs": 0.5, "min_fraction": 0.0}, "min_fraction"),
        ({"max_macs": 0.5, "num_images": 1}, "num_images"),
    ):
        with pytest.raises(InputError, match=message):
            PruneChannels(**options)  # type: ignore[arg-type]
    settings = PruneChannels(max_parameters=0.5)
    assert replace(settings, round_to=4).to_dict()["round_to"] == 4
