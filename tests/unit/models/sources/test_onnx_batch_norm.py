"""BatchNorm that an exporter wrote as elementwise operations is BatchNorm again."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixmix import load

pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")


class _Spelled(nn.Module):
    """BatchNorm in an exporter's own words."""

    def __init__(self, spelled: Callable[..., Tensor], channels: int, ndim: int) -> None:
        super().__init__()
        self.spelled, shape = spelled, (1, channels) + (1,) * (ndim - 2)
        random = torch.Generator().manual_seed(channels)
        for name, low in (("mean", -0.5), ("var", 0.5), ("weight", 0.5), ("bias", -0.5)):
            self.register_buffer(name, low + torch.rand(shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        return self.spelled(x, self.mean, self.var, self.weight, self.bias)


SPELLED: dict[str, Callable[..., Tensor]] = {
    "div": lambda x, m, v, w, b: (x - m) / torch.sqrt(v + 1e-5) * w + b,
    "inverse": lambda x, m, v, w, b: b + w * ((x - m) * torch.rsqrt(v + 1e-5)),
    "negative mean": lambda x, m, v, w, b: (x + -m) / torch.sqrt(v + 1e-5) * w + b,
    "no affine": lambda x, m, v, w, b: (x - m) / torch.sqrt(v + 1e-5),
    "no weight": lambda x, m, v, w, b: (x - m) / torch.sqrt(v + 1e-5) - b,
}
LOST: dict[str, Callable[..., Tensor]] = {
    "scale and shift": lambda x, m, v, w, b: x * w + b,
    "mean and scale": lambda x, m, v, w, b: (x - m) * w + b,
    "used twice": lambda x, m, v, w, b: (x - m) / torch.sqrt(v) + (x - m),
}


def network(spelled: Callable[..., Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False),
        _Spelled(spelled, 6, 4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
        _Spelled(spelled, 5, 2),
        nn.ReLU(),
        nn.Linear(5, 4),
    ).eval()


def loaded(path: Path, model: nn.Module, *, folding: bool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, 12, 12),),
            str(path),
            dynamo=False,
            do_constant_folding=folding,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch"}},
        )
    return load(str(path), mean=[0.5] * 3, std=[0.2] * 3)


@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize("name", list(SPELLED))
def test_statistics_are_read_back(name: str, folding: bool, tmp_path: Path) -> None:
    model = network(SPELLED[name])
    found = loaded(tmp_path / "net.onnx", model, folding=folding)
    assert len(found.batch_norms) == 2
    for layer, own in zip(found.batch_norms, (model[1], model[6]), strict=True):
        assert layer.running_mean is not None and layer.running_var is not None
        torch.testing.assert_close(layer.running_mean, own.mean.flatten())
        torch.testing.assert_close(layer.running_var, own.var.flatten(), rtol=1e-4, atol=1e-4)
    inputs = torch.randn(3, 3, 12, 12)
    torch.testing.assert_close(found.module(inputs), model(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(LOST))
def test_what_has_lost_them_stays_as_it_is(name: str, tmp_path: Path) -> None:
    found = loaded(tmp_path / "net.onnx", network(LOST[name]), folding=True)
    assert not found.batch_norms


def test_normalization_of_the_images_is_no_layer(tmp_path: Path) -> None:
    model = nn.Sequential(_Spelled(SPELLED["div"], 3, 4), nn.Conv2d(3, 4, 12), nn.Flatten()).eval()
    assert not loaded(tmp_path / "net.onnx", model, folding=True).batch_norms
