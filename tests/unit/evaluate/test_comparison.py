"""Two models side by side."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixmix.compress.compress import compress
from mixmix.compress.method import Compressed
from mixmix.compress.quantize.quantize import Quantize
from mixmix.errors import InputError
from mixmix.evaluate.comparison import compare
from mixmix.evaluate.evaluation import evaluate
from mixmix.evaluate.predictor import shared_spec
from mixmix.export import export
from mixmix.models.loading import load
from mixmix.models.model import Model
from mixmix.models.references import load_spec
from mixmix.runtimes.float_onnx import float_onnx_bytes


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7)),
    )
    return load(net, input_shape=(3, 12, 12), mean=0.5, std=0.25, name="net")


IMAGES = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_file_and_network(model: Model, tmp_path: Path) -> None:
    small = export(compress(model, IMAGES, "W8A8"), tmp_path / "small.onnx")
    labels = torch.cat([model(IMAGES).argmax(1)[:20], torch.zeros(20, dtype=torch.long)])
    found = compare(small.path, model, (IMAGES, labels))
    assert found.agreement > 80 and found.num_images == 40 and not found.on_noise
    assert found.model.size_bytes == small.size_bytes and found.model.latency_ms
    assert found.reference.evaluation is not None and found.reference.evaluation.top1 >= 50
    assert found.layers is not None and len(found.layers.layers) == 3
    titles = ["size", "latency of one image", "top-1 accuracy", "top-5 accuracy"]
    assert [row["measure"] for row in found.rows] == titles
    json.dumps(found.to_dict())
    again = compare(small.path, small.path, IMAGES)
    assert again.agreement == 100 and again.model.evaluation is None
    assert compare(small, model).on_noise


@pytest.mark.parametrize("plain_first", [False, True])
def test_a_file_without_normalization_has_that_of_the_other(
    model: Model, tmp_path: Path, plain_first: bool
) -> None:
    small = export(compress(model, IMAGES, "W8A8"), tmp_path / "small.onnx").path
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(float_onnx_bytes(model.module, (3, 12, 12), name="plain"))
    pair = (plain, small) if plain_first else (small, plain)
    assert compare(*pair, IMAGES).agreement > 80
    labels = model(IMAGES).argmax(1)
    found = evaluate(pair[0], (IMAGES, labels), reference=pair[1])
    assert found.agreement is not None and found.agreement > 80 and found.top1 > 80
    # What is given holds, and two files that do not say it are asked for it.
    assert compare(plain, small, IMAGES, spec={"std": 0.5}).reference.evaluation is None
    with pytest.raises(InputError, match="does not specify its mean, std"):
        compare(plain, plain, IMAGES)


@pytest.mark.parametrize("source", ["bundled:vgg", "torchvision:resnet18"])
def test_networks_are_not_loaded_for_their_normalization(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(float_onnx_bytes(model.module, (3, 12, 12), name="plain"))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(import_module("mixmix.evaluate.predictor"), "load", refuse)
    spec = load_spec(source)
    assert shared_spec((plain, source), None) == {"mean": spec.mean, "std": spec.std}


def test_models_without_common_layers_still_compare(model: Model) -> None:
    other = load(
        nn.Sequential(nn.Flatten(), nn.Linear(432, 7)),
        input_shape=(3, 12, 12),
        mean=0.5,
        std=0.25,
    )
    found = compare(other, model, IMAGES)
    assert found.layers is not None or "no layers in common" in found.no_layers


def test_other_numbers_of_classes(model: Model) -> None:
    other = load(
        nn.Sequential(nn.Flatten(), nn.Linear(432, 3)), input_shape=(3, 12, 12), mean=0.5, std=0.25
    )
    with pytest.raises(InputError, match="compare models of one label set"):
        compare(other, model, IMAGES)


def records(compressed: Compressed) -> dict[str, tuple[str, int | None, str]]:
    return {each.name: (each.action, each.weight_bits, each.reason) for each in compressed.records}


@pytest.mark.parametrize("layers", [("0",), ("2",), ("6",), ("0", "2")])
def test_layers_kept_in_float(model: Model, tmp_path: Path, layers: tuple[str, ...]) -> None:
    method = Quantize("W8A8", views=0, layer_bits=dict.fromkeys(layers, "Float"))
    assert Quantize.from_dict(method.to_dict()) == method
    small = compress(model, IMAGES, [method])
    found = records(small)
    for name in ("0", "2", "6"):
        is_kept = name in layers
        assert found[name][:2] == (("skipped", None) if is_kept else ("quantized", 8))
        assert ("kept in float" in found[name][2]) == is_kept
        same = (
            torch.equal(small.module.get_submodule(name).weight, weight(model, name))
            if is_kept
            else True
        )
        assert same
    export(small, tmp_path / "small.onnx")  # checks the outputs


def weight(model: Model, name: str) -> Tensor:
    found = model.module.get_submodule(name).weight
    assert isinstance(found, Tensor)
    return found


def test_a_kept_layer_that_does_not_exist(model: Model) -> None:
    with pytest.raises(
        InputError, match="no convolution or linear layer is called '9'; the nearest names are"
    ):
        compress(model, IMAGES, [Quantize(layer_bits={"9": "float"})])
    with pytest.raises(InputError, match="bits must look like W4A8"):
        Quantize(layer_bits={"0": "floating"})
