"""The estimate of accuracy lost, against sums by hand and against what it is an estimate of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import Tensor, nn

from mixmix import Compressed, ImageSet, Model, ModelSpec, export
from mixmix.errors import InputError
from mixmix.evaluate.estimation import estimate_accuracy, fit_temperature, loss_and_bound
from mixmix.evaluate.intervals import wilson_interval

# Images of one pixel are their own logits, up to a linear map.
SPEC = ModelSpec("pixel", "module", (3, 1, 1), (0.0,) * 3, (1.0,) * 3, 3)


def linear(weight: Tensor) -> Model:
    layer = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return Model(nn.Sequential(nn.Flatten(), layer), SPEC)


def dataset(pixels: Tensor, reference: Model) -> ImageSet:
    """Images that the reference alone was asked for, so that it is as sure as their labels."""
    with torch.no_grad():
        soft_labels = reference(pixels).softmax(1)
    return ImageSet(pixels, soft_labels.argmax(1), soft_labels, {})


def random_dataset(count: int, reference: Model) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return dataset(torch.rand(count, *INPUT_SHAPE, generator=generator), reference)


def test_soft_labels_of_a_zoo_with_another_order_of_classes() -> None:
    order = [2, 0, 1]
    names = ("cat", "dog", "frog")
    pixels = torch.rand(20, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    spec = replace(SPEC, classes=names)
    reference = Model(linear(torch.eye(3)).module, spec)
    other = Model(linear(torch.eye(3)[[1, 0, 2]]).module, spec)
    data = dataset(pixels, reference)
    manifest = {"classes": [names[index] for index in order]}
    moved = ImageSet(pixels, data.labels, data.soft_labels[:, order], manifest)
    found, expected = (estimate_accuracy(other, reference, each) for each in (moved, data))
    assert found.predicted_drop == pytest.approx(expected.predicted_drop)
    assert found.agreement == expected.agreement


def test_by_hand() -> None:
    # The compressed network swaps the first two classes, which changes three images of four.
    pixels = torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.5, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 1.0]])
    swapped = torch.eye(3)[[1, 0, 2]]
    reference = linear(torch.eye(3))
    data = dataset(pixels.repeat(100, 1).view(400, 3, 1, 1), reference)
    estimate = estimate_accuracy(linear(swapped), reference, data, batch_size=300)
    expected = 0.0
    for pixel in pixels[:3].tolist():
        total = sum(math.exp(value) for value in pixel)
        expected += abs(math.exp(pixel[0]) - math.exp(pixel[1])) / total
    assert estimate.agreement == 25
    assert estimate.num_images == 400
    low, high = wilson_interval(100, 400)
    assert estimate.agreement_interval == (100 * low, 100 * high)
    # Such large errors imply a loss that is more than the changes of classes allow.
    low, high = wilson_interval(100 * expected, 400)
    assert estimate.predicted_drop == pytest.approx(100 * high)
    low, high = estimate.predicted_drop_interval
    assert 0 < low <= estimate.predicted_drop <= high
    assert json.loads(json.dumps(estimate.to_dict()))["predicted_drop_interval"] == [low, high]


@pytest.mark.parametrize("overconfidence", [1.0, 4.0])
def test_is_the_drop_where_soft_labels_are_right(overconfidence: float) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 20_000
    pixels = torch.rand(count, 3, 1, 1, generator=generator)
    calibrated = linear(3 * torch.eye(3))
    reference = linear(3 * overconfidence * torch.eye(3))
    other = linear(3 * torch.eye(3) + torch.randn(3, 3, generator=generator))
    data = dataset(pixels, calibrated)
    estimate = estimate_accuracy(other, reference, data, batch_size=count)
    labels = torch.multinomial(data.soft_labels, 1, generator=generator).squeeze(1)
    accuracies = [
        100 * float((network(pixels).argmax(1) == labels).float().mean())
        for network in (reference, other)
    ]
    # Two standard deviations of the difference of accuracies, which differ on half of the images.
    assert estimate.predicted_drop == pytest.approx(accuracies[0] - accuracies[1], abs=1.0)
    assert estimate.predicted_drop > 2


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.7, 12.0])
def test_temperature_is_found(temperature: float) -> None:
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    soft_labels = (logits / temperature).softmax(1)
    assert fit_temperature(logits, soft_labels) == pytest.approx(temperature, rel=1e-4)
    assert fit_temperature(logits, torch.full((200, 5), 0.2)) == pytest.approx(16)


def test_nothing_is_lost_by_what_agrees() -> None:
    teacher = tiny_teacher("residual")
    data = random_dataset(50, teacher)
    estimate = estimate_accuracy(Compressed(teacher.module, teacher.spec), teacher, data)
    assert estimate.agreement == 100
    assert estimate.predicted_drop == estimate.upper_bound == 0
    assert estimate.predicted_drop_interval == (0, 0)


def test_small_errors_tell_what_classes_do_not() -> None:
    wanted = torch.tensor([[1.0, 0.0, -1.0], [-2.0, 0.0, 2.0]] * 32)
    errors = torch.tensor([[0.1, 0.1, -0.2], [0.2, -0.1, -0.1]] * 32)
    found = loss_and_bound(wanted, wanted + errors + 3, wanted.softmax(1))
    assert found.num_same == 64
    assert found.drop == pytest.approx(40 * (0.06 + 0.06) / (2 + 8))
    assert found.interval[0] < found.drop < found.interval[1]
    assert found.bound == pytest.approx(2 * found.drop + 0.3)


def test_exported_files_are_taken(tmp_path: Path) -> None:
    reference = tiny_teacher("plain")
    data = random_dataset(40, reference)
    artifact = export(Compressed(tiny_network("plain"), tiny_spec("plain")), tmp_path / "f.onnx")
    assert estimate_accuracy(artifact, reference, data).agreement == 100
    assert estimate_accuracy(artifact.path, reference, data).agreement == 100


def test_errors() -> None:
    teacher = tiny_teacher("plain")
    data = random_dataset(4, teacher)
    with pytest.raises(InputError, match=f"3 classes, the reference plain has {NUM_CLASSES}"):
        estimate_accuracy(linear(torch.eye(3)), teacher, data)
    with pytest.raises(InputError, match="batch_size must be at least 1"):
        estimate_accuracy(teacher, teacher, data, batch_size=0)
    with pytest.raises(InputError, match="images have 1 channels, plain takes 3"):
        gray = ImageSet(data.images[:, :1], data.labels, data.soft_labels, {})
        estimate_accuracy(teacher, teacher, gray)
    with pytest.raises(InputError, match="plain: it has 4 classes, the image set has 3"):
        other = ImageSet(data.images, data.labels % 3, data.soft_labels[:, :3], {})
        estimate_accuracy(teacher, teacher, other)
    headless = Compressed(teacher.module, replace(teacher.spec, num_classes=0))
    with pytest.raises(InputError, match="no label head"):
        estimate_accuracy(headless, teacher, data)
