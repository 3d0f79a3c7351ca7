"""Arguments in the wrong order, and shapes with channels last, are named as such."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import mixmix
from mixmix.errors import InputError

PIXELS, LABELS = torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.long)


@cache
def vgg() -> mixmix.Model:
    return mixmix.load("bundled:vgg")


@cache
def small() -> mixmix.Compressed:
    short = mixmix.ReconstructionSettings(iterations=1)
    return mixmix.compress(vgg(), PIXELS, mixmix.Quantize(reconstruction=short, views=4))


@pytest.mark.parametrize(
    "images",
    [
        lambda: PIXELS,
        lambda: (PIXELS, LABELS),
        lambda: TensorDataset(PIXELS, LABELS),
        lambda: DataLoader(TensorDataset(PIXELS, LABELS)),
        lambda: mixmix.as_image_set(PIXELS, vgg()),
    ],
    ids=["tensor", "pair", "dataset", "loader", "image set"],
)
def test_images_before_the_model(images: Callable[[], Any]) -> None:
    for call in (mixmix.compress, mixmix.evaluate, mixmix.measure_sensitivity):
        with pytest.raises(InputError, match=r"expected a model, got images .*comes first"):
            call(images(), vgg())  # type: ignore[operator]


def test_methods_before_images() -> None:
    for method in ("W8A8", mixmix.Quantize("W4A4"), mixmix.Prune(0.5)):
        for rest in ((), (PIXELS,)):
            with pytest.raises(InputError, match="the images come before the methods"):
                mixmix.compress(vgg(), method, *rest)  # type: ignore[arg-type]


def test_a_model_before_its_images_and_a_path_before_its_model() -> None:
    with pytest.raises(InputError, match="the images come first, then the model"):
        mixmix.as_image_set(vgg(), PIXELS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the model comes first, then the path"):
        mixmix.export("x.onnx", vgg())  # type: ignore[arg-type]


def test_the_original_before_the_compressed_model(tmp_path: Path) -> None:
    file = mixmix.export(small(), tmp_path / "small.onnx")
    for reference in (small(), file, file.path):
        with pytest.raises(InputError, match="the compressed model comes first"):
            mixmix.estimate_accuracy(vgg(), reference, PIXELS)
        assert mixmix.estimate_accuracy(reference, vgg(), PIXELS).num_images == 4
    whole = mixmix.export(vgg(), tmp_path / "whole.onnx")
    assert mixmix.estimate_accuracy(vgg(), whole, PIXELS).predicted_drop < 0.1


def test_images_with_channels_last() -> None:
    last = PIXELS.permute(0, 2, 3, 1)
    with pytest.raises(InputError, match=r"images\.permute\(0, 3, 1, 2\)"):
        mixmix.as_image_set(last, vgg())
    with pytest.raises(InputError, match=r"images\.permute\(2, 0, 1\)\[None\]"):
        mixmix.as_image_set(last[0], vgg())
    with pytest.raises(InputError, match=r"images\.permute\(0, 3, 1, 2\)"):
        mixmix.evaluate(vgg(), (last, LABELS))
    with pytest.raises(InputError, match=r"images\[None\]"):
        mixmix.as_image_set(PIXELS[0], vgg())


@pytest.mark.parametrize("mean", [0.5, (0.5, 0.5, 0.5)])
def test_shapes_with_channels_last(mean: Any) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    with pytest.raises(InputError, match="did you mean 3,16,12"):
        mixmix.load(network, input_shape=(16, 12, 3), mean=mean, std=0.25)
    with pytest.raises(InputError, match="did you mean 3,32,32"):
        mixmix.load("bundled:vgg", input_shape=(32, 32, 3))


@pytest.mark.parametrize("name", ["vgg", "resnet50", "efficientnet_b0"])
def test_names_without_a_source(name: str) -> None:
    with pytest.raises(InputError, match=rf"did you mean '\w+:{name}'"):
        mixmix.load(name)


def test_percentages() -> None:
    for settings, field in ((mixmix.Prune, "sparsity"), (mixmix.PruneChannels, "max_macs")):
        with pytest.raises(InputError, match=rf"{field} .*, got 50; write 0\.5 for 50%"):
            settings(50)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"\(0, 1\), got 0$"):
        mixmix.Prune(0)


def test_names_that_other_libraries_have() -> None:
    for name, meant in (("steps", "iterations"), ("lr", "learning_rate"), ("bs", "batch_size")):
        with pytest.raises(InputError, match=f"did you mean '{meant}'"):
            mixmix.recipe("mixmix", **{name: 8})
