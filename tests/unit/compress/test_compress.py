"""``compress``: what it takes, and that methods follow one another."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_networks import (
    INPUT_SHAPE,
    NUM_CLASSES,
    tiny_network,
    tiny_spec,
    tiny_teacher,
    without_batch_norm,
)

from mixmix import Compressed, ImageSet, Quantize, compress, recipe
from mixmix.compress.compress import _methods
from mixmix.compress.method import Progress
from mixmix.errors import DataError, InputError

IMAGES = torch.rand(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Note:
    """A method that notes what it is given."""

    name: str = "note"
    needs_images: bool = True

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        results = {"name": self.name, "seed": seed, "images": len(data)}
        return model.with_method(self, results)


def test_methods_follow_one_another() -> None:
    result = compress(tiny_teacher("plain"), IMAGES, [Note("a"), Note("b")])
    results = [method.results for method in result.applied]
    assert [each["name"] for each in results] == ["a", "b"]
    assert all(each["seed"] == 0 and each["images"] == 4 for each in results)


def test_bits_stand_for_quantize() -> None:
    assert _methods("W4A8") == [Quantize("W4A8")]
    assert _methods(["W8A8", Note()]) == [Quantize("W8A8"), Note()]


def test_any_model_and_any_images(tmp_path: Path) -> None:
    pair = (tiny_network("plain"), tiny_spec("plain"))
    Image.new("RGB", (20, 30)).save(tmp_path / "one.png")
    for images in (IMAGES, tmp_path, str(tmp_path)):
        assert compress(pair, images, Note()).spec.name == "plain"


def test_methods_that_make_their_own_images_need_none() -> None:
    result = compress(tiny_teacher("plain"), None, Note(needs_images=False))
    assert result.applied[0].results["images"] == 0


@pytest.mark.parametrize("name", ["plain", "without-batch-norm"])
def test_images_are_made_where_none_are_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    few = recipe("mixmix", num_images=8, batch_size=4, iterations=2)
    monkeypatch.setattr(import_module("mixmix.compress.compress"), "settings_for", lambda zoo: few)
    network = tiny_network("plain") if name == "plain" else without_batch_norm()
    spec = tiny_spec("plain")
    said: dict[str, Any] = {"input_shape": spec.input_shape, "mean": 0.5, "std": 0.25}
    seen: list[str] = []
    made = [
        compress(network, methods=Note(), on_progress=lambda what, _: seen.append(what), **said),
        compress(network, None, Note(), **said),
        compress(network, **said),
        compress(network, bits="W8A8", **said),
    ]
    assert seen[0] == "synthesizing"
    assert made[0].applied[0].results["images"] == made[1].applied[0].results["images"] == 8
    assert made[2].settings == made[3].settings == (Quantize("W8A8").to_dict(),)
    with pytest.raises(InputError, match="leave out one of them"):
        compress(network, methods="W8A8", bits="W4A4", **said)
    with pytest.raises(InputError, match="does not specify its input_shape, mean, std"):
        compress(network)


@pytest.mark.parametrize(
    ("images", "methods", "error", "message"),
    [
        (IMAGES, [], InputError, "at least one method"),
        (IMAGES, "int8", InputError, "int8"),
        (IMAGES, 3, InputError, "3 is not a method; expected bits such as 'W8A8'"),
        (IMAGES, Quantize, InputError, "is not a method"),
        (IMAGES - 3, Note(), DataError, r"must be in \[0, 1\]"),
        (IMAGES[:, :1], Note(), InputError, "have 1 channels, plain takes 3"),
        ("absent", Note(), DataError, "there is no folder of images at absent"),
    ],
)
def test_what_cannot_be(images: Any, methods: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compress(tiny_teacher("plain"), images, methods)


def test_labels_of_own_images_are_predicted() -> None:
    seen: list[ImageSet] = []

    class Keep(Note):
        def apply(self, model: Compressed, data: ImageSet, **options: Any) -> Compressed:
            seen.append(data)
            return model

    teacher = tiny_teacher("plain")
    compress(teacher, IMAGES, Keep())
    assert seen[0].soft_labels.shape == (4, NUM_CLASSES)
    assert torch.equal(seen[0].labels, teacher(IMAGES).argmax(1))


def test_networks_that_give_nan_are_refused() -> None:
    network = tiny_network("plain")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN or infinite"):
        compress(network, IMAGES, "W8A8", input_shape=INPUT_SHAPE, mean=0.5, std=0.25)
