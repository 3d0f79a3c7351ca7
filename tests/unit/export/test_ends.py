"""Files with preprocessing and probabilities compute what their network does, and say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_networks import tiny_images, tiny_teacher
from torch import Tensor, nn

from mixmix import Compressed, Model, compress, evaluate, export, load
from mixmix.errors import InputError
from mixmix.models.model import normalize
from mixmix.runtimes.latency import compare_latency_ms
from mixmix.runtimes.session import OnnxSession


def run_plainly(path: Path, images: np.ndarray) -> Tensor:  # type: ignore[type-arg]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images})[0])


@pytest.mark.parametrize(
    ("layout", "softmax", "bits"),
    [("NHWC", False, None), ("NCHW", True, "W8A8"), (True, True, "W4A4"), ("NCHW", False, None)],
)
def test_bytes_in_and_probabilities_out(
    tmp_path: Path, layout: str | bool, softmax: bool, bits: str | None
) -> None:
    tiny, images = tiny_teacher("residual"), tiny_images()
    model = Model(tiny.module, replace(tiny.spec, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)))
    compressed = Compressed(model.module, model.spec)
    if bits is not None:
        compressed = compress(model, images, bits)
    path = tmp_path / "net.onnx"
    export(compressed, path, with_preprocessing=layout, with_softmax=softmax)
    pixels = (images.images[:8] * 255).round().to(torch.uint8)
    given = pixels if layout == "NCHW" else pixels.permute(0, 2, 3, 1)
    found = run_plainly(path, given.numpy())
    own = Model(compressed.module, compressed.spec)(pixels.float() / 255)
    # Rounding errors may change values of few bits.
    tolerance = 1e-4 if bits is None else 0.2
    assert torch.allclose(found, own.softmax(1) if softmax else own, atol=tolerance)
    assert not softmax or torch.allclose(found.sum(1), torch.ones(8), atol=1e-5)
    session = OnnxSession(path)
    metadata = session.metadata
    assert metadata["input_type"] == "uint8" and metadata["input_layout"] in ("NHWC", "NCHW")
    assert metadata["output"] == ("softmax" if softmax else "logits")
    logits = session.run(normalize(pixels.float() / 255, compressed.spec))
    assert torch.equal(logits.argmax(1), found.argmax(1))
    labels = found.argmax(1)
    assert evaluate(path, (pixels, labels)).top1 == 100
    assert compare_latency_ms([path], repeats=1, rounds=1)[str(path)] > 0


def test_metadata_say_what_a_program_needs(tmp_path: Path) -> None:
    spec = replace(tiny_teacher("plain").spec, resize=20, interpolation="bicubic", license="MIT")
    model = Model(tiny_teacher("plain").module, spec)
    path = export(model, tmp_path / "net.onnx").path
    metadata = OnnxSession(path).metadata
    height, width = spec.input_shape[1:]
    for key, value in {
        "input_shape": list(spec.input_shape),
        "mean": list(spec.mean),
        "std": list(spec.std),
        "resize": 20,
        "crop": [height, width],
        "classes": list(spec.classes),
    }.items():
        assert json.loads(metadata[key]) == value
    plain = ("input_name", "input_layout", "input_type", "interpolation", "output", "license")
    assert [metadata[key] for key in plain] == [
        *("images", "NCHW", "float32", "bicubic", "logits", "MIT")
    ]
    origin = json.loads(metadata["provenance"])
    assert origin["network"] == spec.name and origin["weights_sha256"] == model.spec.sha256


def test_several_labels_have_sigmoids(tmp_path: Path) -> None:
    model = tiny_teacher("plain")
    spec = replace(model.spec, multi_label=True)
    path = tmp_path / "net.onnx"
    export(Model(model.module, spec), path, with_softmax=True)
    images = normalize(tiny_images().images[:4], spec)
    found = run_plainly(path, images.numpy())
    assert torch.allclose(found, model.module(images).sigmoid(), atol=1e-5)
    assert torch.allclose(OnnxSession(path).run(images), model.module(images), atol=1e-3)


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    model = tiny_teacher("plain")
    with pytest.raises(InputError, match="into .onnx files, not into sparse"):
        export(model, tmp_path / "net.safetensors", with_softmax=True)
    with pytest.raises(InputError, match="must be 'NHWC', 'NCHW', got 'CHWN'"):
        export(model, tmp_path / "net.onnx", with_preprocessing="CHWN")
    backbone = load(nn.Flatten(), input_shape=(1, 4, 4), mean=0, std=1, num_classes=0)
    with pytest.raises(InputError, match="has no classes, so that it has no softmax"):
        export(backbone, tmp_path / "net.onnx", with_softmax=True)
    path = export(model, tmp_path / "bytes.onnx", with_preprocessing=True).path
    with pytest.raises(InputError, match="takes bytes, as files with their own preprocessing"):
        load(str(path))
