"""Inspection: whether mean and std fit, and what can be done with layers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixmix.errors import InputError
from mixmix.evaluate.inspection import inspect
from mixmix.evaluate.normalization import natural_images, normalization_report
from mixmix.models import load_spec
from mixmix.models.loading import load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenetv2", "vovnet"])
def test_mean_and_std_that_are_right(name: str) -> None:
    assert normalization_report(load(f"bundled:{name}"))[0] == "ok"


@pytest.mark.parametrize("name", ["resnet", "mobilenetv2"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.0, 1 / 255), (0.0, 0.02)])
def test_mean_and_std_that_are_wrong(name: str, mean: float, std: float) -> None:
    state, reason = normalization_report(load(f"bundled:{name}", mean=mean, std=std))
    assert state == "doubtful" and "check --mean and --std" in reason


def test_networks_without_batch_norm_tell_nothing() -> None:
    assert normalization_report(load("bundled:vit"))[0] == "unknown"


def test_natural_images_have_the_contrast_of_photographs() -> None:
    images = natural_images(load_spec("bundled:vgg"))
    assert images.shape == (16, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    assert 0.15 < float(images.std()) < 0.3
    neighbors = torch.corrcoef(torch.stack([images[..., 1:].flatten(), images[..., :-1].flatten()]))
    assert float(neighbors[0, 1]) > 0.6


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.reflecting = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(torch.relu(self.reflecting(x)).mean((2, 3)))


def test_layers_and_a_draft_of_the_spec() -> None:
    torch.manual_seed(0)
    net = Net()
    net.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    found = inspect(net, input_shape=(3, 12, 12), mean=0.5, std=0.25, probe=False)
    layers = {each.name: each for each in found.layers}
    assert layers["conv"].quantize == "yes" and layers["conv"].prune_channels == "yes"
    assert layers["norm"].quantize == "folded into conv" and layers["norm"].prune_channels == "-"
    assert "padding_mode" in layers["reflecting"].quantize
    assert "outputs of the network" in layers["head"].prune_channels
    assert found.task == "5 classes" and found.seconds == {}
    draft = tomllib.loads(found.draft_spec())
    assert draft["num_classes"] == 5 and draft["mean"] == [0.5] * 3
    assert found.facts["time"] == "unknown" and "no BatchNorm" not in found.images


def test_time_and_memory_are_estimated() -> None:
    found = inspect("bundled:mobilenetv2")
    assert list(found.seconds) == ["load", "images", "quantize", "export"]
    assert min(found.seconds.values()) > 0
    # Of the whole process, which has imported PyTorch.
    assert found.memory_gib is not None and 0.2 < found.memory_gib < 100
    assert "min" in found.facts["time"] or " s" in found.facts["time"]


def test_networks_that_do_not_load(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no ONNX file"):
        inspect(tmp_path / "absent.onnx", mean=0.5, std=0.5)
