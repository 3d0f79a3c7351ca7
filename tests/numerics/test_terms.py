"""Losses against plain loops in numpy, and their gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.models.observation import BatchNormStatistics
from mixmix.synthesis.terms.terms import (
    agreement_loss,
    bn_statistics_loss,
    l2_loss,
    mixed_cross_entropy_loss,
    relative_bn_loss,
    similarity_loss,
    total_variation_loss,
)


def tensor(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def statistics(widths: tuple[int, ...]) -> list[BatchNormStatistics]:
    return [
        BatchNormStatistics(*(tensor(width, seed=10 * layer + part) for part in range(4)))
        for layer, width in enumerate(widths)
    ]


@pytest.mark.parametrize("first_multiplier", [1.0, 10.0, 0.0])
@pytest.mark.parametrize("widths", [(3,), (5, 2, 7)])
def test_bn_loss_against_a_loop(widths: tuple[int, ...], first_multiplier: float) -> None:
    layers = statistics(widths)
    # DeepInversion (Yin et al. 2020), eq. 4, written out channel by channel.
    expected = 0.0
    for index, layer in enumerate(layers):
        mean, var, running_mean, running_var = (part.numpy() for part in layer)
        squares_of_mean = squares_of_var = 0.0
        for channel in range(len(mean)):
            squares_of_mean += (mean[channel] - running_mean[channel]) ** 2
            squares_of_var += (var[channel] - running_var[channel]) ** 2
        distance = math.sqrt(squares_of_mean) + math.sqrt(squares_of_var)
        expected += distance * (first_multiplier if index == 0 else 1.0)
    found = bn_statistics_loss(layers, first_multiplier=first_multiplier)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_bn_loss_is_zero_with_finite_gradient_at_a_perfect_match() -> None:
    mean, var = tensor(4).requires_grad_(), tensor(4, seed=1).requires_grad_()
    loss = bn_statistics_loss([BatchNormStatistics(mean, var, mean.detach(), var.detach())])
    loss.backward()
    assert loss.item() == 0
    assert mean.grad is not None and torch.isfinite(mean.grad).all()
    assert var.grad is not None and torch.isfinite(var.grad).all()


def positive(layers: list[BatchNormStatistics]) -> list[BatchNormStatistics]:
    return [layer._replace(running_var=layer.running_var.abs()) for layer in layers]


@pytest.mark.parametrize("first_multiplier", [1.0, 10.0, 0.0])
@pytest.mark.parametrize("widths", [(3,), (5, 2, 7)])
def test_relative_bn_loss_against_a_loop(widths: tuple[int, ...], first_multiplier: float) -> None:
    layers = positive(statistics(widths))
    expected = 0.0
    for index, layer in enumerate(layers):
        mean, var, running_mean, running_var = (part.numpy() for part in layer)
        scale = running_var + 0.01 * running_var.mean()
        shift = math.sqrt((((mean - running_mean) ** 2) / scale).mean())
        stretch = math.sqrt((((var - running_var) / scale) ** 2).mean())
        expected += (shift + stretch) * (first_multiplier if index == 0 else 1.0)
    found = relative_bn_loss(layers, first_multiplier=first_multiplier)
    assert found.item() == pytest.approx(expected / len(widths), rel=1e-12)


def test_relative_bn_loss_does_not_know_scales_widths_and_depths() -> None:
    (layer,) = positive(statistics((6,)))
    once = relative_bn_loss([layer])
    factor = torch.tensor(1000.0, dtype=torch.float64)
    powers = (factor, factor**2, factor, factor**2)
    scaled = BatchNormStatistics(*(part * f for part, f in zip(layer, powers, strict=True)))
    wide = BatchNormStatistics(*(part.repeat(3) for part in layer))
    for layers in ([scaled], [wide], [layer, scaled, wide]):
        torch.testing.assert_close(relative_bn_loss(layers), once)


def test_relative_bn_loss_of_channels_that_do_not_vary_is_finite() -> None:
    dead = torch.zeros(4, dtype=torch.float64)
    mean, var = tensor(4).requires_grad_(), tensor(4, seed=1).abs().requires_grad_()
    for running_mean, running_var in ((dead, dead), (mean.detach(), var.detach())):
        loss = relative_bn_loss([BatchNormStatistics(mean, var, running_mean, running_var)])
        gradients = torch.autograd.grad(loss, (mean, var))
        assert all(bool(torch.isfinite(each).all()) for each in (loss, *gradients))


def test_relative_bn_loss_gradient() -> None:
    running = tensor(3, seed=8), tensor(3, seed=9).abs()

    def loss(features: Tensor) -> Tensor:
        var, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
        return relative_bn_loss([BatchNormStatistics(mean, var, *running)], first_multiplier=2.0)

    assert torch.autograd.gradcheck(loss, (tensor(4, 3, 2, 2).requires_grad_(),))


def test_bn_loss_gradient() -> None:
    running = tensor(3, seed=8), tensor(3, seed=9)

    def loss(features: Tensor) -> Tensor:
        var, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
        return bn_statistics_loss([BatchNormStatistics(mean, var, *running)], first_multiplier=2.0)

    assert torch.autograd.gradcheck(loss, (tensor(4, 3, 2, 2).requires_grad_(),))


def test_mixed_cross_entropy_against_a_loop() -> None:
    logits = tensor(6, 5)
    labels, other = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([4, 4, 2, 0, 1, 3])
    share = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.1, 0.9], dtype=torch.float64)
    total = 0.0
    for row, first, second, box in zip(logits.numpy(), labels, other, share, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        total += (1 - float(box)) * (log_sum - row[int(first)])
        total += float(box) * (log_sum - row[int(second)])
    found = mixed_cross_entropy_loss(logits, labels, other, share)
    assert found.item() == pytest.approx(total / 6, rel=1e-12)


def test_mixed_cross_entropy_without_a_box_is_cross_entropy() -> None:
    logits, labels = tensor(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    found = mixed_cross_entropy_loss(logits, labels, labels.flip(0), torch.zeros(6))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))


def test_mixed_cross_entropy_gradient() -> None:
    labels, other = torch.tensor([0, 1, 2]), torch.tensor([2, 2, 0])
    share = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: mixed_cross_entropy_loss(x, labels, other, share),
        (tensor(3, 4).requires_grad_(),),
    )


def test_total_variation_against_numpy_and_by_hand() -> None:
    images = tensor(2, 3, 5, 4)
    pixels = images.numpy()
    expected = np.abs(np.diff(pixels, axis=2)).mean() + np.abs(np.diff(pixels, axis=3)).mean()
    assert total_variation_loss(images).item() == pytest.approx(expected, rel=1e-12)
    # Rows 0 0 / 1 3: vertical |1| |3|, horizontal |0| |2|.
    by_hand = torch.tensor([[[[0.0, 0.0], [1.0, 3.0]]]])
    assert total_variation_loss(by_hand).item() == 2.0 + 1.0


@pytest.mark.parametrize(("height", "width"), [(1, 4), (4, 1), (1, 1)])
def test_total_variation_of_a_line_of_pixels(height: int, width: int) -> None:
    images = torch.arange(float(height * width)).view(1, 1, height, width)
    assert total_variation_loss(images).item() == (1.0 if height * width > 1 else 0.0)


def test_total_variation_gradient() -> None:
    assert torch.autograd.gradcheck(total_variation_loss, (tensor(2, 2, 4, 3).requires_grad_(),))


def test_l2_against_numpy() -> None:
    images = tensor(2, 3, 5, 4)
    expected = ((images.numpy() - 0.5) ** 2).mean()
    assert l2_loss(images).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(l2_loss, (images.requires_grad_(),))


def test_agreement_against_a_loop() -> None:
    teacher, student = (tensor(5, 4, seed=seed).softmax(1) for seed in (1, 2))
    # Adaptive DeepInversion (Yin et al. 2020), eq. 7, written out.
    total = 0.0
    for p, q in zip(teacher.tolist(), student.tolist(), strict=True):
        for a, b in zip(p, q, strict=True):
            middle = (a + b) / 2
            total += (a * math.log(a / middle) + b * math.log(b / middle)) / 2
    expected = 1 - total / 5 / math.log(2)
    assert float(agreement_loss(teacher, student)) == pytest.approx(expected, abs=1e-9)


def test_agreement_is_one_of_the_same_and_none_of_the_opposite() -> None:
    one, other = torch.eye(3), torch.eye(3).roll(1, 0)
    assert float(agreement_loss(one, one)) == pytest.approx(1, abs=1e-6)
    assert float(agreement_loss(one, other)) == pytest.approx(0, abs=1e-6)


def test_similarity_against_a_loop() -> None:
    images, labels = tensor(6, 2, 16, 8), torch.tensor([0, 1, 0, 0, 1, 2])
    flat = (images - images.mean((2, 3), keepdim=True)).flatten(1).numpy()
    found = []
    for i in range(6):
        for j in range(6):
            if i != j and labels[i] == labels[j]:
                lengths = np.linalg.norm(flat[i]) * np.linalg.norm(flat[j])
                found.append((flat[i] @ flat[j] / lengths) ** 2)
    assert float(similarity_loss(images, labels)) == pytest.approx(np.mean(found))


def test_similarity_is_of_layout_within_a_class() -> None:
    image = tensor(1, 3, 20, 20)
    pair = torch.cat([image, image * 0.5 + 0.2])
    assert float(similarity_loss(pair, torch.zeros(2))) == pytest.approx(1)
    assert float(similarity_loss(pair, torch.arange(2))) == 0
