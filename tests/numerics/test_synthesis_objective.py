"""The whole loss of one step, put together by hand from the same random draws."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_spec, tiny_teacher
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import SynthesisSettings, Zoo
from mixmix.data.mixing import draw_boxes
from mixmix.models import Model
from mixmix.synthesis.objective import is_mixed, losses_of
from mixmix.synthesis.terms import (
    L2,
    BatchNormDistance,
    CrossEntropy,
    TotalVariation,
)
from mixmix.synthesis.terms.bn import relative_bn_loss

NUM_IMAGES = 6


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def batch() -> tuple[Tensor, Tensor]:
    images = torch.rand(NUM_IMAGES, *INPUT_SHAPE, generator=torch.Generator().manual_seed(1))
    return images, torch.arange(NUM_IMAGES) % 4


def bn_distance(teacher: Model, views: Tensor) -> Tensor:
    total = torch.zeros(())
    for layer in teacher.observe(views).statistics:
        total = total + (layer.mean - layer.running_mean).square().sum().sqrt()
        total = total + (layer.var - layer.running_var).square().sum().sqrt()
    return total


@pytest.mark.parametrize("names", [("plain",), ("plain", "residual"), ("plain", "no-batch-norm")])
def test_loss_of_a_step_with_data_mixing(names: tuple[str, ...]) -> None:
    zoo = Zoo([tiny_teacher(name) for name in names])
    settings = SynthesisSettings(
        terms=(
            BatchNormDistance(weight=0.7, distance="absolute"),
            CrossEntropy(weight=1.3),
            TotalVariation(weight=0.2),
            L2(weight=0.4),
        ),
        members_per_step=None,
        jitter=0,
        flip=False,
    )
    images, labels = batch()
    found = losses_of(zoo, images, labels, settings, generator=generator(), mixing=True)

    draws = generator()
    partner = torch.randperm(NUM_IMAGES, generator=draws)
    boxes = draw_boxes(NUM_IMAGES, INPUT_SHAPE[1:], settings.box_area, generator=draws)
    views, losses = images.clone(), []
    for index in range(NUM_IMAGES):
        top, left, height, width = (int(values[index]) for values in boxes)
        other = images[partner[index : index + 1]]
        views[index, :, top : top + height, left : left + width] = F.interpolate(
            other, (height, width), mode="bilinear", align_corners=False
        )[0]
    for index in range(NUM_IMAGES):
        share = int(boxes.height[index] * boxes.width[index]) / (INPUT_SHAPE[1] * INPUT_SHAPE[2])
        for teacher in zoo:
            log_probabilities = teacher(views)[index].log_softmax(0)
            losses.append(
                -(1 - share) * log_probabilities[labels[index]]
                - share * log_probabilities[labels[partner[index]]]
            )
    # A term of each network counts as if all had the same number of layers.
    depths = [len(teacher.batch_norms) for teacher in zoo if teacher.batch_norms]
    bn = torch.zeros(())
    for teacher in (teacher for teacher in zoo if teacher.batch_norms):
        mean_per_layer = bn_distance(teacher, views) / len(teacher.batch_norms)
        bn = bn + mean_per_layer * sum(depths) / len(depths)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    # Both are means over all members, whether or not they have BatchNorm.
    torch.testing.assert_close(found["bn"], 0.7 * bn / len(zoo), **tolerance)
    torch.testing.assert_close(found["ce"], 1.3 * torch.stack(losses).mean(), **tolerance)
    # The prior is that of the images themselves, not of their mixtures.
    tv = images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()
    torch.testing.assert_close(found["tv"], 0.2 * tv, **tolerance)
    torch.testing.assert_close(found["l2"], 0.4 * (images - 0.5).square().mean(), **tolerance)


def test_loss_of_a_step_without_data_mixing() -> None:
    teacher = tiny_teacher("depthwise")
    settings = SynthesisSettings(
        terms=(BatchNormDistance(distance="absolute"), CrossEntropy()), jitter=0, flip=False
    )
    images, labels = batch()
    found = losses_of(Zoo([teacher]), images, labels, settings, generator=generator(), mixing=False)
    assert set(found) == {"bn", "ce"}
    torch.testing.assert_close(found["bn"], bn_distance(teacher, images))
    torch.testing.assert_close(found["ce"], F.cross_entropy(teacher(images), labels))


def test_relative_distances_need_no_balance() -> None:
    zoo = Zoo([tiny_teacher(name) for name in ("plain", "depthwise")])
    images, labels = batch()
    settings = SynthesisSettings(
        terms=(BatchNormDistance(distance="relative"),), members_per_step=None, jitter=0, flip=False
    )
    found = losses_of(zoo, images, labels, settings, generator=generator(), mixing=False)
    distances = [relative_bn_loss(teacher.observe(images).statistics) for teacher in zoo]
    torch.testing.assert_close(found["bn"], 60 * torch.stack(distances).mean())


def test_only_networks_whose_channels_vary_much_are_rescaled() -> None:
    images, labels = batch()
    wide = copy.deepcopy(tiny_teacher("plain").module)
    for module in wide.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var *= 1000
    settings = SynthesisSettings(jitter=0, flip=False)
    absolute = settings.with_term(BatchNormDistance(distance="absolute"))
    for teacher, is_same in (
        (tiny_teacher("plain"), True),
        (Model(wide, tiny_spec("plain")), False),
    ):
        found, expected = (
            losses_of(Zoo([teacher]), images, labels, each, generator=generator(), mixing=False)
            for each in (settings, absolute)
        )
        assert torch.equal(found["bn"], expected["bn"]) is is_same
        if not is_same:
            assert found["bn"] < 0.1 * expected["bn"]


def test_members_are_drawn_anew_at_every_step() -> None:
    zoo = Zoo([tiny_teacher(name) for name in ("plain", "residual", "depthwise")])
    settings = SynthesisSettings(
        members_per_step=1,
        terms=(BatchNormDistance(distance="absolute", balance=False),),
        jitter=0,
        flip=False,
    )
    images, labels = batch()
    draws = generator()
    found = {
        round(
            float(losses_of(zoo, images, labels, settings, generator=draws, mixing=False)["bn"]), 4
        )
        for _ in range(20)
    }
    assert found == {round(float(bn_distance(teacher, images)), 4) for teacher in zoo}


@pytest.mark.parametrize(
    ("fraction", "mixed"),
    [
        (0.0, []),
        (0.25, [3, 7]),
        (0.5, [1, 3, 5, 7]),
        (0.75, [1, 2, 3, 5, 6, 7]),
        (1.0, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_mixing_is_spread_over_the_steps(fraction: float, mixed: list[int]) -> None:
    assert [step for step in range(8) if is_mixed(step, fraction)] == mixed
