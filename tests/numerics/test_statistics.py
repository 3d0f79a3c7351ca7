"""What a teacher reads against what BatchNorm itself writes in train mode."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, tiny_network, tiny_spec, tiny_teacher
from torch import Tensor, nn

from mixmix import Model
from mixmix.models.hooked import HookedNetwork
from mixmix.models.model import normalize


def batch(num_images: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(num_images, *INPUT_SHAPE, generator=generator)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_statistics_are_those_batch_norm_writes(name: str) -> None:
    """One layer at a time in train mode with momentum 1 (the others as in eval mode)."""
    teacher = tiny_teacher(name)
    statistics = teacher.observe(batch()).statistics
    model = copy.deepcopy(teacher.module)
    layers = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(statistics) == len(layers)
    for index, layer in enumerate(layers):
        alone = copy.deepcopy(model)
        twin = [m for m in alone.modules() if isinstance(m, nn.BatchNorm2d)][index]
        twin.train()
        twin.momentum = 1.0
        count = 0

        def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal count
            count = inputs[0].numel() // inputs[0].shape[1]

        twin.register_forward_pre_hook(record)
        with torch.no_grad():
            alone(normalize(batch(), teacher.spec))
        # By value, because shortcuts run in another order than they are defined in.
        assert layer.running_mean is not None
        found = next(s for s in statistics if _same(s.running_mean, layer.running_mean))
        assert twin.running_mean is not None and twin.running_var is not None
        torch.testing.assert_close(found.mean, twin.running_mean, atol=1e-5, rtol=1e-4)
        # BatchNorm stores the unbiased variance; a teacher observes the one it divides by.
        unbiased = found.var * count / (count - 1)
        torch.testing.assert_close(unbiased, twin.running_var, atol=1e-5, rtol=1e-4)
        assert torch.equal(found.running_var, layer.running_var)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise"])
def test_gradients_of_statistics_reach_the_pixels(name: str) -> None:
    network = HookedNetwork(tiny_network(name).double().requires_grad_(False))
    images = batch(2).double()[:, :, :16, :16]
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).double()

    def loss(x: Tensor) -> Tensor:
        seen = network.observe(normalize(x, tiny_spec(name)))
        return seen.logits.sum() + sum(s.mean.sum() + s.var.sum() for s in seen.statistics)

    leaf = images.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    step = 1e-6
    numeric = (loss(images + step * direction) - loss(images - step * direction)) / (2 * step)
    # A ReLU that switches within the step costs some digits.
    assert float((leaf.grad * direction).sum()) == pytest.approx(float(numeric), rel=1e-3)


def test_images_of_the_training_distribution_match_their_statistics() -> None:
    """Feeding a network the batch its statistics were taken from leaves next to no distance."""
    spec = tiny_spec("plain")
    images = batch(64)
    model = tiny_network("plain")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        for _ in range(4):  # once per layer: each moves the input of the next
            model.train()(normalize(images, spec))
    for seen in Model(model.eval(), spec).observe(images).statistics:
        torch.testing.assert_close(seen.mean, seen.running_mean, atol=1e-3, rtol=0)
        torch.testing.assert_close(seen.var, seen.running_var, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_bfloat16_sees_about_the_same(name: str) -> None:
    teacher = tiny_teacher(name)
    seen = {}
    for precision in ("float32", "bfloat16"):
        images = batch().requires_grad_()
        observation = teacher.observe(images, precision=precision)
        (observation.logits.sum() + sum(s.mean.sum() for s in observation.statistics)).backward()
        assert images.grad is not None
        seen[precision] = [
            observation.logits,
            *(value for s in observation.statistics for value in (s.mean, s.var)),
            images.grad,
        ]
    for rough, exact in zip(seen["bfloat16"], seen["float32"], strict=True):
        assert rough.dtype is torch.float32
        assert float((rough - exact).detach().norm()) < 0.2 * float(exact.detach().norm())
