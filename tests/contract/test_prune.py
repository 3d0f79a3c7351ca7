"""What pruning of single weights promises, on networks of every family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import NETWORKS, tiny_network, tiny_spec
from tiny_networks import tiny_images as images
from torch import nn

from mixmix import (
    Compressed,
    FineTune,
    Method,
    Prune,
    PruneChannels,
    Quantize,
    QuantizeAware,
    ReconstructFeatures,
    ReestimateBatchNorm,
    TrainingSettings,
    compress,
    sparsity_of,
)
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import InputError
from mixmix.graph.masks import Pattern
from mixmix.graph.quantized import QuantizedLayer

families = pytest.mark.parametrize("family", sorted(NETWORKS))
RECOVERY = (
    ReestimateBatchNorm(),
    ReconstructFeatures(iterations=3, batch_size=8, views=64),
    FineTune(TrainingSettings(steps=3, batch_size=8)),
)
FAST = Quantize("W4A4", reconstruction=ReconstructionSettings(iterations=4, batch_size=8))


def pruned(family: str, *methods: Method, seed: int = 0) -> Compressed:
    return compress((tiny_network(family), tiny_spec(family)), images(), methods, seed=seed)


def prunable(family: str) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in tiny_network(family).named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and not module.groups == module.in_channels > 1)
    }


def assert_masks_hold(compressed: Compressed) -> None:
    weights = dict(compressed.module.named_parameters())
    for name, kept in compressed.masks.items():
        assert kept.dtype == torch.bool and kept.shape == weights[name].shape
        assert not weights[name][~kept].any()


@families
def test_contract(family: str) -> None:
    model = tiny_network(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method = Prune(0.7, recovery=RECOVERY, between=RECOVERY[1])
    told: list[str] = []
    compressed = compress(
        (model, tiny_spec(family)),
        images(),
        method,
        seed=0,
        on_progress=lambda what, share: told.append(what),
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert type(compressed.module) is type(model)
    after = compressed.module.state_dict()
    assert {n: t.shape for n, t in after.items()} == {n: t.shape for n, t in before.items()}
    assert not compressed.module.training
    assert not any(p.requires_grad for p in compressed.module.parameters())
    assert not any(p._backward_hooks for p in compressed.module.parameters())
    assert not any(m._forward_hooks for m in compressed.module.modules())
    torch.rand(7)  # draws elsewhere must not matter
    again = pruned(family, method).module.state_dict()
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert_masks_hold(compressed)
    original = compressed.original
    assert original is not None
    assert all(torch.equal(before[n], t) for n, t in original.state_dict().items())
    assert json.loads(json.dumps(compressed.settings))[0]["method"] == "prune"
    assert told

    layers = prunable(family)
    total = sum(m.weight.numel() for m in layers.values())  # type: ignore[union-attr]
    zeros = sum(int((~kept).sum()) for kept in compressed.masks.values())
    assert zeros == pytest.approx(0.7 * total, abs=1)
    named = {
        name
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    }
    assert {record.name for record in compressed.records} == named
    for record in compressed.records:
        assert (record.action == "pruned") == (record.name in layers)
        assert (record.sparsity is None) == bool(record.reason) == (record.action == "skipped")
        assert record.action == "skipped" or record.error is not None
    found = sparsity_of(compressed.module)
    assert all(
        found.layers[r.name] >= r.sparsity for r in compressed.records if r.sparsity is not None
    )


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "obs"])
@pytest.mark.parametrize("setting", [{"sparsity": 0.9}, {"pattern": "1:4"}])
def test_zeros_become_more_in_rounds(criterion: str, setting: dict[str, Any]) -> None:
    told: list[str] = []
    method = Prune(
        **setting, criterion=criterion, between=RECOVERY[1], recovery=RECOVERY[1], skip=("0.0",)
    )
    compressed = compress(
        (tiny_network("residual"), tiny_spec("residual")),
        images(),
        method,
        seed=0,
        on_progress=lambda what, share: told.append(what),
    )
    assert_masks_hold(compressed)
    zeros = sum(int((~kept).sum()) for kept in compressed.masks.values())
    total = sum(kept.numel() for kept in compressed.masks.values())
    assert zeros == pytest.approx(method.sparsity * total, abs=1)
    rounds = list(dict.fromkeys(what.partition(":")[0] for what in told))
    expected = 5 if "sparsity" in setting else 3
    assert rounds == [f"round {number} of {expected}" for number in range(1, expected + 1)]


def test_rounds_are_for_recoveries_that_change_weights_unless_asked_for() -> None:
    model = (tiny_network("residual"), tiny_spec("residual"))

    def masks(**settings: Any) -> dict[str, torch.Tensor]:
        return dict(compress(model, images(), Prune(0.9, **settings), seed=0).masks)

    at_once = masks(recovery=())
    assert all(torch.equal(at_once[n], m) for n, m in masks(recovery=RECOVERY[:1]).items())
    assert all(
        torch.equal(at_once[n], m) for n, m in masks(recovery=RECOVERY[1:], rounds=1).items()
    )
    assert not all(
        torch.equal(at_once[n], m)
        for n, m in masks(recovery=(), rounds=3, between=RECOVERY[1]).items()
    )
    with pytest.raises(InputError, match="rounds"):
        Prune(rounds=0)
    told: list[str] = []
    compress(
        model,
        images(),
        [Prune(0.8, recovery=()), Prune(0.9, between=RECOVERY[1], recovery=RECOVERY[1])],
        seed=0,
        on_progress=lambda what, share: told.append(what),
    )
    assert {what.partition(":")[0] for what in told if what.startswith("round")} == {
        "round 1 of 2",
        "round 2 of 2",
    }


@families
@pytest.mark.parametrize(
    ("criterion", "pattern"),
    [("magnitude", "2:4"), ("wanda", "2:4"), ("obs", "2:4"), ("magnitude", "1:2")],
)
def test_groups_hold_everywhere(family: str, criterion: str, pattern: str) -> None:
    steps = {"recovery": RECOVERY[1:], "between": RECOVERY[1]}
    compressed = pruned(family, Prune(pattern=pattern, criterion=criterion, **steps))
    assert_masks_hold(compressed)
    parsed = Pattern.parse(pattern)
    layers = prunable(family)
    for name, layer in layers.items():
        record = next(r for r in compressed.records if r.name == name)
        fits = layer.weight.shape[1] % parsed.m == 0  # type: ignore[index, operator, union-attr]
        assert (record.action == "pruned") == fits
        if fits:
            kept = compressed.masks[f"{name}.weight"]
            assert parsed.holds(kept)
            assert record.sparsity == pytest.approx(parsed.sparsity)
        else:
            assert "groups" in record.reason


@families
@pytest.mark.parametrize("allocation", ["global", "lamp", "sqrt-lamp"])
@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "obs"])
def test_every_allocation_keeps_to_the_budget(family: str, criterion: str, allocation: str) -> None:
    method = Prune(0.6, criterion=criterion, allocation=allocation, recovery=())
    compressed = pruned(family, method)
    assert_masks_hold(compressed)
    total = sum(kept.numel() for kept in compressed.masks.values())
    kept = sum(int(kept.sum()) for kept in compressed.masks.values())
    # Rounding is up to half a weight for each layer, or one for each block of columns.
    assert kept == pytest.approx(0.4 * total, rel=0.03)
    assert all(kept.any() for kept in compressed.masks.values())


@pytest.mark.parametrize(
    ("options", "allocation"),
    [
        ({}, "global"),
        ({"rounds": 1}, "sqrt-lamp"),
        ({"recovery": ReestimateBatchNorm()}, "sqrt-lamp"),
        ({"recovery": ReestimateBatchNorm(), "rounds": 2}, "global"),
        ({"rounds": 1, "allocation": "lamp"}, "lamp"),
    ],
)
def test_default_allocation_follows_from_recovery(options: dict[str, Any], allocation: str) -> None:
    assert Prune(0.9, **options).chosen_allocation == allocation


@families
@pytest.mark.parametrize(
    ("aware", "pattern", "affine"),
    [
        (False, "unstructured", False),
        (False, "2:4", True),
        (True, "unstructured", True),
        (True, "2:4", False),
    ],
)
def test_zeros_stay_zeros_through_quantization(
    family: str, aware: bool, pattern: str, affine: bool
) -> None:
    base = Quantize(
        "W2A4",
        first_last_bits=4,
        symmetric_weights=not affine,
        equalize=pattern == "2:4",
        reconstruction=FAST.reconstruction,
    )
    training = TrainingSettings(steps=4, batch_size=8, learning_rate=0.1)
    method = QuantizeAware(base, training) if aware else base
    compressed = pruned(family, Prune(0.6, pattern, recovery=()), method)
    assert compressed.masks
    for name, kept in compressed.masks.items():
        layer = compressed.module.get_submodule(name.removesuffix(".weight"))
        assert isinstance(layer, QuantizedLayer)
        assert not layer.weight()[~kept].any()
        integers = layer.integers.int()
        zero = torch.zeros(len(integers)) if layer.zero_point is None else layer.zero_point
        shape = (-1,) + (1,) * (integers.ndim - 1)
        assert Pattern.parse(pattern).holds(integers != zero.view(shape))
    quantized = [r for r in compressed.records if r.sparsity is not None]
    assert {r.action for r in quantized} == {"quantized"}
    assert len(quantized) == len(compressed.masks)


def test_pruning_again_keeps_what_is_zero() -> None:
    once = pruned("residual", Prune(pattern="2:4", recovery=()))
    twice = pruned("residual", Prune(pattern="2:4", recovery=()), Prune(0.8, recovery=RECOVERY))
    assert_masks_hold(twice)
    for name, kept in once.masks.items():
        assert not twice.masks[name][~kept].any()
    zeros = sum(int((~kept).sum()) for kept in twice.masks.values())
    assert zeros == pytest.approx(0.8 * sum(k.numel() for k in twice.masks.values()), abs=1)
    assert twice.original is not None
    assert torch.equal(
        twice.original.state_dict()["stem.0.weight"]
        if "stem.0.weight" in twice.original.state_dict()
        else next(iter(twice.original.state_dict().values())),
        next(iter(tiny_network("residual").state_dict().values())),
    )


def test_teacher_of_every_prune_is_the_network_without_its_channels() -> None:
    channels = PruneChannels(max_macs=0.7, round_to=1, recovery=())
    narrow = pruned("residual", channels)
    zeros = (Prune(0.3, recovery=()), Prune(0.5, recovery=RECOVERY))
    twice = pruned("residual", channels, *zeros)
    assert twice.dense is not None
    wanted = narrow.module.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in twice.dense.state_dict().items())
    assert_masks_hold(twice)


@pytest.mark.parametrize("second", [Prune(0.5, recovery=()), FAST])
def test_quantized_networks_are_refused(second: Method) -> None:
    with pytest.raises(InputError, match="quantized already"):
        pruned("plain", FAST, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be in"),
        ({"sparsity": 0.0}, "sparsity must be in"),
        ({"pattern": "4:2"}, "N:M with 0 < N < M"),
        ({"pattern": "block"}, "pattern must be"),
        ({"criterion": "random"}, "criterion must be one of magnitude, wanda, obs"),
        ({"allocation": "erk"}, "allocation must be one of"),
    ],
)
def test_refuses_settings_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prune(**options)  # type: ignore[arg-type]


def test_layers_by_name_stay_dense() -> None:
    name = next(iter(prunable("plain")))
    compressed = pruned("plain", Prune(0.7, skip=(name,), recovery=()))
    record = next(r for r in compressed.records if r.name == name)
    assert record.action == "skipped" and "requested" in record.reason
    assert f"{name}.weight" not in compressed.masks
    with pytest.raises(InputError, match="no convolution or linear layer is called 'nothing'"):
        pruned("plain", Prune(0.7, skip=("nothing",), recovery=()))


@pytest.mark.parametrize("ends_in", ["round 2 of 3: recon", "round 3 of 3: training"])
def test_rounds_resume_from_their_checkpoints(tmp_path: Path, ends_in: str) -> None:
    class Interrupted(Exception):
        pass

    told: list[str] = []

    def on_progress(what: str, share: float) -> None:
        told.append(what)
        if what.startswith(ends_in) and len(told) > 1:
            raise Interrupted

    pair = (tiny_network("residual"), tiny_spec("residual"))
    whole = Prune(0.7, rounds=3, between=RECOVERY[1], recovery=RECOVERY[1:])
    method = replace(whole, checkpoints=tmp_path)
    with pytest.raises(Interrupted):
        compress(pair, images(), method, seed=0, on_progress=on_progress)
    before, told = told[:-1], []
    ends_in = "nothing"
    resumed = compress(pair, images(), method, seed=0, on_progress=on_progress)
    assert not {what for what in before if what.startswith("round 1")} & set(told)
    assert_masks_hold(resumed)
    expected = compress(pair, images(), whole, seed=0)
    assert all(torch.equal(expected.masks[n], kept) for n, kept in resumed.masks.items())
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name])
    with pytest.raises(InputError, match="contains a pruning run with other settings"):
        compress(pair, images(), replace(method, sparsity=0.8), seed=0)


def test_fine_tuning_resumes_from_its_checkpoints(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def on_progress(what: str, share: float) -> None:
        if what.startswith("training") and share >= 0.9:
            raise Interrupted

    training = TrainingSettings(steps=10, batch_size=8, checkpoint_steps=4)
    method = Prune(0.7, recovery=FineTune(training, checkpoints=tmp_path))
    pair = (tiny_network("residual"), tiny_spec("residual"))
    with pytest.raises(Interrupted):
        compress(pair, images(), method, seed=0, on_progress=on_progress)
    resumed = compress(pair, images(), method, seed=0)
    whole = pruned("residual", Prune(0.7, recovery=FineTune(training)))
    assert_masks_hold(resumed)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name])
