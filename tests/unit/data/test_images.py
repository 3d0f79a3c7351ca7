"""Images in every form that ``as_image_set`` takes, and those that it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mixmix import ImageSet, Model, as_image_set
from mixmix.data.images import as_images
from mixmix.data.pixels import encoded, read_image
from mixmix.errors import DataError, InputError
from mixmix.evaluate.labeled_files import LabeledFiles


@pytest.fixture
def model() -> Model:
    return tiny_teacher("plain")


@pytest.fixture
def pixels() -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, *INPUT_SHAPE), generator=draws, dtype=torch.uint8)


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


class Items(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Any:
        return iter(self.items)


class LikeHuggingFace:
    """Neither a list nor a Dataset of PyTorch."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_all_forms_give_the_same_images(pixels: Tensor, model: Model) -> None:
    images = pixels.float() / 255
    pictures = [picture(image) for image in pixels]
    forms: list[Any] = [
        pixels,
        images,
        images.double(),
        TensorDataset(pixels),
        TensorDataset(pixels, torch.arange(6)),
        DataLoader(TensorDataset(pixels), batch_size=4),
        DataLoader(Items(list(images)), batch_size=4),
        Items(list(pixels)),
        Items(pictures),
        Items([{"image": one} for one in pictures]),
        Items([{"pixel_values": one} for one in images]),
        LikeHuggingFace([{"image": one, "label": 1} for one in pictures]),
        Stream(list(images)),
        DataLoader(Items([{"image": one, "label": 2} for one in pixels]), batch_size=6),
    ]
    for form in forms:
        if isinstance(form, TensorDataset) and len(form.tensors) == 2:
            form = TensorDataset(pixels, torch.arange(6) % NUM_CLASSES)
        found = as_image_set(form, model)
        torch.testing.assert_close(found.images, images)
        torch.testing.assert_close(as_images(form, model.spec), images)


def test_labels_that_are_missing_are_predicted(pixels: Tensor, model: Model) -> None:
    images = pixels.float() / 255
    found = as_image_set(images, model)
    expected = model(images).softmax(1)
    torch.testing.assert_close(found.soft_labels, expected)
    assert torch.equal(found.labels, expected.argmax(1))
    assert found.manifest["labels"] == "predicted by plain"


@pytest.mark.parametrize("form", ["tuple", "dataset", "loader", "dicts"])
def test_labels_that_are_given_stay(form: str, pixels: Tensor, model: Model) -> None:
    labels = torch.tensor([3, 2, 1, 0, 3, 2])
    items: dict[str, Any] = {
        "tuple": (pixels, labels),
        "dataset": TensorDataset(pixels, labels),
        "loader": DataLoader(TensorDataset(pixels, labels), batch_size=4),
        "dicts": Items(
            [{"image": p, "label": int(t)} for p, t in zip(pixels, labels, strict=True)]
        ),
    }
    found = as_image_set(items[form], model)
    assert torch.equal(found.labels, labels)
    assert found.soft_labels.shape == (6, NUM_CLASSES)


def test_a_backbone_labels_nothing(pixels: Tensor) -> None:
    module = torch.nn.Sequential(*list(tiny_network("plain"))[:-1])
    backbone = Model(module, tiny_spec("plain", num_classes=0, label_set=""))
    found = as_image_set(pixels, backbone)
    assert found.soft_labels.shape == (6, 0) and not found.labels.any()


class TestFolders:
    def test_pictures_nested_in_the_order_of_their_paths(
        self, pixels: Tensor, model: Model, tmp_path: Path
    ) -> None:
        (tmp_path / "b" / "c").mkdir(parents=True)
        names = ["a.png", "b/c/x.PNG", "b/y.webp"]
        for name, image in zip(names, pixels, strict=False):
            options = {"lossless": True} if name.endswith("webp") else {}
            picture(image).save(tmp_path / name, **options)
        (tmp_path / "notes.txt").write_text("no picture")
        (tmp_path / ".hidden.png").write_bytes(b"no picture")
        found = as_image_set(tmp_path, model)
        assert torch.equal(found.images, pixels[:3].float() / 255)
        assert str(tmp_path) in found.manifest["origin"]

    def test_photographs_are_scaled_and_cropped(self, model: Model, tmp_path: Path) -> None:
        wide = np.zeros((40, 80, 3), dtype=np.uint8)
        wide[:, 30:50] = 255  # what is at the sides is cropped
        wide[:, :20] = 128
        Image.fromarray(wide).save(tmp_path / "wide.png")
        Image.new("L", (5, 9), 255).save(tmp_path / "wide2.jpg")
        Image.new("RGBA", (33, 33), (255, 0, 0, 128)).save(tmp_path / "wide3.png")
        found = as_images(tmp_path, model.spec)
        assert found.shape == (3, *INPUT_SHAPE)
        assert bool((found[0, :, :, 7:9] == 1).all()) and bool((found[0, :, :, 0] < 0.1).all())
        assert bool((found[1] > 0.99).all())
        assert torch.equal(found[2, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))

    def test_what_synthesize_wrote(self, pixels: Tensor, model: Model, tmp_path: Path) -> None:
        labels = torch.arange(6) % NUM_CLASSES
        soft = torch.eye(NUM_CLASSES)[labels]
        data = ImageSet(pixels.float() / 255, labels, soft, {"models": []})
        data.save(tmp_path / "images")
        for form in (data, tmp_path / "images", str(tmp_path / "images")):
            found = as_image_set(form, model)
            assert torch.equal(found.images, data.images)
            assert torch.equal(found.soft_labels, soft)
        assert as_image_set(data, model) is data
        both = as_image_set([data, tmp_path / "images"], model)
        assert len(both) == 12
        assert as_images([data, tmp_path / "images"], model.spec).shape[0] == 12

    def test_what_is_in_vain(self, model: Model, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no folder of images at"):
            as_image_set(tmp_path / "absent", model)
        with pytest.raises(DataError, match="contains no image files"):
            as_image_set(tmp_path, model)
        (tmp_path / "broken.png").write_bytes(b"\x89PNG")
        with pytest.raises(DataError, match=r"cannot read the image .*broken.png"):
            as_image_set(tmp_path, model)

    def test_other_channels(self, tmp_path: Path) -> None:
        Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
        spec = replace(tiny_spec("plain"), input_shape=(2, 4, 4), mean=(0, 0), std=(1, 1))
        with pytest.raises(InputError, match="image files have 1 or 3 channels, expected 2"):
            as_images(tmp_path, spec)
        gray = replace(tiny_spec("plain"), input_shape=(1, 4, 4), mean=(0,), std=(1,))
        assert as_images(tmp_path, gray).shape == (1, 1, 4, 4)


def test_images_of_several_sizes_are_brought_to_one(model: Model) -> None:
    items = Items([torch.rand(3, 20, 24), torch.full((3, 8, 8), 255, dtype=torch.uint8)])
    found = as_images(items, model.spec)
    assert found.shape == (2, *INPUT_SHAPE)
    torch.testing.assert_close(found[1], torch.ones(INPUT_SHAPE))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.randn(4, *INPUT_SHAPE) * 3, DataError, r"must be in \[0, 1\], got values from"),
        (torch.full((1, *INPUT_SHAPE), float("nan")), DataError, r"must be in \[0, 1\]"),
        (torch.zeros(2, *INPUT_SHAPE, dtype=torch.int64), DataError, "uint8 or floats"),
        (torch.zeros(INPUT_SHAPE), InputError, r"expected images \(N, 3, H, W\).*images\[None\]"),
        (torch.zeros(2, 1, 16, 16), InputError, "have 1 channels, plain takes 3"),
        (torch.zeros(0, *INPUT_SHAPE), DataError, "contains no images"),
        (
            (torch.zeros(2, *INPUT_SHAPE), torch.tensor([0, 9])),
            DataError,
            "label 9 is out of range",
        ),
        ((torch.zeros(2, *INPUT_SHAPE), torch.zeros(2)), DataError, "must be class indices"),
        ([], InputError, "must hold folders or ImageSets, got nothing"),
        ([torch.zeros(3, 4, 4)], InputError, "torch.stack"),
        (3, InputError, "cannot use a int as images"),
        ({"image": 1}, InputError, "cannot use a dict as images"),
        (Items([(torch.zeros(INPUT_SHAPE), "cat")]), DataError, "must be class indices, got str"),
        (Items([]), DataError, "contains no images"),
        (Items(["x.png"]), InputError, r"must have an image \(C, H, W\), got str"),
        (Items([{"pixels": 1}]), InputError, "need the key 'image' or"),
        (DataLoader(Items([1, 2])), InputError, r"must have images \(N, C, H, W\), got tensor"),
    ],
)
def test_what_cannot_be_taken(
    images: Any, error: type[Exception], message: str, model: Model
) -> None:
    with pytest.raises(error, match=message):
        as_image_set(images, model)


def test_no_memory_for_a_picture_is_said(pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object) -> None:
        raise OSError("codec configuration error when writing image file")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(MemoryError, match="PNG"):
        encoded(picture(pixels[0]))


@pytest.mark.parametrize("name", ["x.png", "x.tiff", "x.pgm"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_of_16_bits_are_scaled(name: str, channels: int, tmp_path: Path) -> None:
    values = np.array([[0, 1000, 40000, 65535]], np.uint16)
    if name == "x.pgm":
        (tmp_path / name).write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    found = read_image(tmp_path / name, (channels, 1, 4))
    assert (found - torch.tensor(values / 65535)).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_unknown_range_are_refused(kind: type, tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), kind)).save(tmp_path / "x.tiff")
    with pytest.raises(DataError, match="32 bits"):
        read_image(tmp_path / "x.tiff", (1, 4, 4))


@pytest.mark.parametrize("orientation", [3, 6])
def test_photographs_are_upright_wherever_they_are_read(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    colors = np.zeros((16, 16, 3), np.uint8)
    colors[:8] = 255
    Image.fromarray(colors).save(tmp_path / "x.png", exif=exif)
    spec = tiny_spec("plain")
    evaluated, _ = LabeledFiles([(tmp_path / "x.png", 0)], spec)[0]
    read = read_image(tmp_path / "x.png", spec.input_shape)
    assert torch.equal(evaluated.float() / 255, read)
    assert read[:, :4, -4:].mean() == (0.0 if orientation == 3 else 1.0)
