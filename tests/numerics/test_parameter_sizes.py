"""Sizes that learning rates are relative to, against sums in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mixmix.compress.recover.recover import parameter_scales


def filled(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator).mul_(0.3)
    return layer


def rms(values: torch.Tensor) -> float:
    flat = values.detach().numpy().ravel()
    return float(np.sqrt(np.mean(flat[flat != 0] ** 2)))


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_sizes_follow_weights_that_are_left(scale: float) -> None:
    layer = filled(nn.Conv2d(4, 6, 3))
    with torch.no_grad():
        layer.weight.mul_(scale)  # type: ignore[operator, union-attr]
        layer.weight[:, ::2] = 0  # type: ignore[index]
    sizes = parameter_scales(layer)
    # A row has 18 weights left: with random signs they sum up to sqrt(18) of them.
    assert sizes[layer.weight] == pytest.approx(rms(layer.weight), rel=1e-5)  # type: ignore[index, arg-type]
    wanted = rms(layer.weight) * np.sqrt(2 * 9)  # type: ignore[arg-type]
    assert sizes[layer.bias] == pytest.approx(wanted, rel=1e-5)  # type: ignore[index]


def test_shifts_of_a_normalization_have_the_size_of_its_factors() -> None:
    norm = filled(nn.BatchNorm2d(5))
    sizes = parameter_scales(norm)
    assert rms(norm.weight) != pytest.approx(rms(norm.bias), rel=0.01)  # type: ignore[arg-type]
    for parameter in (norm.weight, norm.bias):
        assert sizes[parameter] == pytest.approx(rms(norm.weight), rel=1e-5)  # type: ignore[index, arg-type]


def test_every_parameter_has_a_size_and_zeros_count_as_one() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(3, 2), nn.Parameter(torch.full((2,), 0.25))

    model = Scaled()
    nn.init.zeros_(model.layer.weight)
    sizes = parameter_scales(model)
    assert set(sizes) == set(model.parameters())
    assert sizes[model.scale] == pytest.approx(0.25)
    assert sizes[model.layer.weight] == sizes[model.layer.bias] == 1
