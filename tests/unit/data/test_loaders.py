"""Images for other compressors: their form, and that the real ones take them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec

from mixmix import Compressed, ImageSet, export
from mixmix.data.loaders import calibration_reader, loader
from mixmix.errors import InputError
from mixmix.models.model import normalize
from mixmix.runtimes.session import OnnxSession

SPEC = tiny_spec("plain")


@pytest.fixture
def data() -> ImageSet:
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(40, *INPUT_SHAPE, generator=draws)
    soft = torch.rand(40, NUM_CLASSES, generator=draws).softmax(1)
    return ImageSet(images, torch.arange(40) % NUM_CLASSES, soft, {})


def test_loader_gives_what_the_network_takes(data: ImageSet) -> None:
    batches = list(loader(data, SPEC, batch_size=16))
    assert [len(images) for images, _, _ in batches] == [16, 16, 8]
    images, labels, soft = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(images, normalize(data.images, SPEC))
    assert torch.equal(labels, data.labels) and torch.equal(soft, data.soft_labels)


def test_images_are_resized_for_the_network(data: ImageSet) -> None:
    spec = replace(SPEC, input_shape=(3, 20, 24))
    ((batch, _, _),) = loader(data, spec, batch_size=40)
    assert batch.shape == (40, 3, 20, 24)


def test_onnx_runtime_calibrates_with_them(data: ImageSet, tmp_path: Path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    exported = export(Compressed(tiny_network("plain"), SPEC), tmp_path / "float.onnx")
    reader = calibration_reader(data, SPEC, batch_size=16)
    assert len(reader) == 3 and reader.get_next()["images"].shape == (16, *INPUT_SHAPE)
    reader.rewind()
    quantization.quantize_static(
        exported.path,
        tmp_path / "int8.onnx",
        reader,
        per_channel=True,
        reduce_range=True,  # eight bits would saturate on CPUs without VNNI
        activation_type=quantization.QuantType.QUInt8,
    )
    assert reader.get_next() is None
    images = normalize(data.images, SPEC)
    expected = OnnxSession(exported.path).run(images)
    got = OnnxSession(tmp_path / "int8.onnx").run(images)
    assert (got - expected).norm() < 0.1 * (expected - expected.mean(1, keepdim=True)).norm()


def test_nncf_calibrates_with_them(data: ImageSet, tmp_path: Path) -> None:
    nncf = pytest.importorskip("nncf", reason="nncf and openvino take 390 MB")
    openvino = pytest.importorskip("openvino")
    exported = export(Compressed(tiny_network("plain"), SPEC), tmp_path / "float.onnx")
    model = openvino.Core().read_model(exported.path)
    batches = [{"images": images.numpy()} for images, *_ in loader(data, SPEC, batch_size=8)]
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=5)
    images = normalize(data.images, SPEC)
    expected = OnnxSession(exported.path).run(images)
    got = torch.from_numpy(openvino.compile_model(quantized, "CPU")(images.numpy())[0])
    assert (got - expected).norm() < 0.1 * (expected - expected.mean(1, keepdim=True)).norm()


def test_what_cannot_be(data: ImageSet) -> None:
    gray = replace(SPEC, input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,))
    with pytest.raises(InputError, match="images have 3 channels, plain takes 1"):
        loader(data, gray)
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        calibration_reader(data, SPEC, batch_size=0)
