"""What quantization-aware training promises, on networks of every family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_networks import NETWORKS, tiny_network, tiny_spec
from tiny_networks import tiny_images as images

from mixmix import Compressed, Method, Quantize, compress, export
from mixmix.compress.quantize.quantize_aware import QuantizeAware
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.compress.train.settings import TrainingSettings
from mixmix.errors import InputError
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer

families = pytest.mark.parametrize("family", sorted(NETWORKS))


def method(bits: str = "W4A4", *, steps: int = 6, **options: object) -> QuantizeAware:
    return QuantizeAware(
        Quantize(
            bits,
            first_last_bits=None,
            reconstruction=ReconstructionSettings(iterations=5, batch_size=8),
        ),
        TrainingSettings(steps=steps, batch_size=8),
        **options,  # type: ignore[arg-type]
    )


def trained(family: str, chosen: Method, *, seed: int = 0) -> Compressed:
    return compress((tiny_network(family), tiny_spec(family)), images(), chosen, seed=seed)


@families
def test_contract(family: str) -> None:
    model = tiny_network(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    told: list[str] = []
    random_state = torch.get_rng_state()
    compressed = compress(
        (model, tiny_spec(family)),
        images(),
        method(),
        seed=0,
        on_progress=lambda what, share: told.append(what),
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(p.requires_grad for p in compressed.module.parameters())
    assert not compressed.module.training
    assert torch.equal(torch.get_rng_state(), random_state)
    torch.rand(7)  # draws elsewhere must not matter
    again = trained(family, method())
    assert again.applied[0].results == compressed.applied[0].results
    assert again.records == compressed.records
    one, other = compressed.module.state_dict(), again.module.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    layers = [m for m in compressed.module.modules() if isinstance(m, QuantizedLayer)]
    quantized = [r for r in compressed.records if r.action == "quantized"]
    assert len(layers) == len(quantized) and {layer.bits for layer in layers} == {4}
    assert quantized[0].activation_bits == 8  # the images
    assert {record.activation_bits for record in quantized[1:]} == {4}
    assert all(r.error is not None and 0 <= r.error < 2 for r in quantized)
    assert json.loads(json.dumps(compressed.settings))[0]["method"] == "quantize-aware"
    assert any("agreement" in what for what in told)


@pytest.mark.parametrize("family", ["residual", "depthwise"])
def test_exports_to_a_file_that_agrees(family: str, tmp_path: Path) -> None:
    compressed = trained(family, method("W3A3"))
    artifact = export(compressed, tmp_path / "model.onnx", probe=images(64).images)
    assert artifact.agreement >= 98


def test_training_brings_units_nearer() -> None:
    few, many = (trained("residual", method("W2A3", steps=n)) for n in (1, 200))
    errors = [sum(r.error for r in c.records if r.error is not None) for c in (few, many)]
    assert errors[1] < 0.9 * errors[0]


def test_run_resumes_from_its_checkpoints(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def on_progress(what: str, share: float) -> None:
        if what.startswith("training") and share >= 0.9:
            raise Interrupted

    chosen = QuantizeAware(
        method().base,
        TrainingSettings(steps=10, batch_size=8, checkpoint_steps=4),
        checkpoints=tmp_path,
    )
    pair = (tiny_network("residual"), tiny_spec("residual"))
    with pytest.raises(Interrupted):
        compress(pair, images(), chosen, seed=0, on_progress=on_progress)
    assert (tmp_path / "checkpoint.safetensors").exists()
    resumed = compress(pair, images(), chosen, seed=0)
    whole = trained("residual", QuantizeAware(chosen.base, chosen.training))
    state = resumed.module.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in whole.module.state_dict().items())
    assert resumed.applied[0].results == whole.applied[0].results
    with pytest.raises(InputError, match="other seed"):
        compress(pair, images(), chosen, seed=1)


def test_training_that_raises_the_divergence_is_not_kept() -> None:
    harmful = QuantizeAware(method().base, TrainingSettings(steps=6, learning_rate=3.0))
    kept = trained("residual", harmful)
    found = kept.applied[0].results["divergence"]
    assert found["trained"] > found["base"]
    data = images()
    seen, _ = data.split(len(data) - len(data) // 9)
    pair = (tiny_network("residual"), tiny_spec("residual"))
    base = compress(pair, seen, harmful.base, seed=0)
    one, other = kept.module.state_dict(), base.module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert [r.error for r in kept.records] == [r.error for r in base.records]


def test_training_on_all_images_is_kept_whatever_comes() -> None:
    harmful = TrainingSettings(steps=6, learning_rate=3.0)
    one, other = (
        trained("residual", QuantizeAware(method().base, harmful, held_out=count))
        for count in (0, 64)
    )
    assert "divergence" not in one.applied[0].results
    weights, others = one.module.state_dict(), other.module.state_dict()
    assert any(not torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(("input_bits", "expected"), [(8, 8), (None, 3), (6, 6)])
def test_images_have_bits_of_their_own(input_bits: int | None, expected: int) -> None:
    base = Quantize(
        "W3A3",
        first_last_bits=None,
        input_bits=input_bits,
        reconstruction=ReconstructionSettings(iterations=0),
    )
    compressed = trained("residual", QuantizeAware(base, TrainingSettings(steps=1, batch_size=8)))
    first = next(m for m in compressed.module.modules() if isinstance(m, QuantizedActivation))
    assert first.bits == expected
    record = next(r for r in compressed.records if r.action == "quantized")
    assert (record.weight_bits, record.activation_bits) == (3, expected)


def test_refuses_unknown_bits_of_images() -> None:
    with pytest.raises(InputError, match="input_bits must be in .2, 8. or None, got 9"):
        Quantize("W4A4", input_bits=9)
