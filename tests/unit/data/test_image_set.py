from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mixmix import ImageSet
from mixmix.data.shards import FORMAT, MANIFEST_NAME, Shard
from mixmix.errors import DataError, InputError
from mixmix.runtime.storage import write_tensors


def make_shard(num_images: int, seed: int, channels: int = 3) -> Shard:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (num_images, channels, 6, 5), generator=generator)
    soft = torch.rand(num_images, 3, generator=generator).softmax(1)
    return Shard(pixels.to(torch.uint8), torch.arange(num_images) % 3, soft)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of four images each, in three classes."""
    entries = []
    for index in range(3):
        name = f"shard-{index:05d}.safetensors"
        digest = make_shard(4, index).save(tmp_path / name)
        entries.append({"file": name, "sha256": digest, "num_images": 4})
    classes = ["cat", "dog", "a/b c"]
    manifest = {"format": FORMAT, "models": [{"classes": classes}], "shards": entries}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(manifest))
    return tmp_path


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestJoin:
    def test_parts_keep_their_order_and_are_spread_evenly(self, folder: Path) -> None:
        data = ImageSet.load(folder)
        few, many = data.split(4)
        joined = ImageSet.join([many, few])
        assert torch.equal(joined.images[1::3], few.images)
        rest = [index for index in range(12) if index % 3 != 1]
        assert torch.equal(joined.images[rest], many.images)
        assert torch.equal(joined.labels[1::3], few.labels)
        assert torch.equal(joined.soft_labels[1::3], few.soft_labels)

    def test_result_is_saved_with_the_manifests_of_its_parts(
        self, folder: Path, tmp_path: Path
    ) -> None:
        data = ImageSet.load(folder)
        joined = ImageSet.join([data, data])
        again = ImageSet.load(joined.save(tmp_path / "joined"))
        assert again.manifest["parts"] == [data.manifest, data.manifest]
        assert again.classes == data.classes
        assert len(again.manifest["models"]) == 1

    def test_what_its_parts_left_out_is_named_by_path(self, folder: Path) -> None:
        whole = ImageSet.load(folder)
        name = "shard-00001.safetensors"
        (folder / name).write_bytes(b"not a shard")
        part = ImageSet.load(folder)
        joined = ImageSet.join([whole, part])
        assert len(joined) == 20
        assert joined.refused == {str(folder / name): part.refused[name]}

    def test_other_shapes_are_refused(self, folder: Path) -> None:
        data = ImageSet.load(folder)
        gray = ImageSet(data.images[:, :1], data.labels, data.soft_labels, {})
        with pytest.raises(InputError, match="different images or classes cannot be joined"):
            ImageSet.join([data, gray])
        with pytest.raises(InputError, match="at least one data set"):
            ImageSet.join([])


class TestSplit:
    def test_parts_are_the_whole_and_say_which_part(self, folder: Path) -> None:
        data = ImageSet.load(folder)
        first, others = data.split(8)
        assert torch.equal(torch.cat([first.images, others.images]), data.images)
        assert torch.equal(torch.cat([first.labels, others.labels]), data.labels)
        assert torch.equal(torch.cat([first.soft_labels, others.soft_labels]), data.soft_labels)
        assert first.manifest["part"] == {"first": 0, "last": 7}
        assert others.split(1)[1].manifest["part"] == {"first": 9, "last": 11}
        assert "part" not in data.manifest
        assert others.classes == data.classes

    def test_parts_survive_the_disk(self, folder: Path, tmp_path: Path) -> None:
        _, others = ImageSet.load(folder).split(8)
        loaded = ImageSet.load(others.save(tmp_path / "part"))
        assert torch.equal(loaded.images, others.images)
        assert loaded.manifest["part"] == {"first": 8, "last": 11}

    @pytest.mark.parametrize("num_images", [0, 12, -1])
    def test_no_part_is_empty(self, folder: Path, num_images: int) -> None:
        with pytest.raises(InputError, match="from 1 to 11 to split 12 images"):
            ImageSet.load(folder).split(num_images)


class TestLoad:
    def test_all_shards_in_order(self, folder: Path) -> None:
        data = ImageSet.load(folder)
        expected = torch.cat([make_shard(4, index).images for index in range(3)])
        assert len(data) == 12
        assert data.refused == {}
        assert data.path == folder
        assert torch.equal((data.images * 255).round().to(torch.uint8), expected)
        image, label = data[5]
        assert image.shape == (3, 6, 5) and image.dtype == torch.float32
        assert image.min() >= 0 and image.max() <= 1
        assert label.dtype == torch.int64 and int(label) == 1

    @pytest.mark.parametrize("kept", [0, 10, -1])
    def test_truncated_shard_is_named_and_the_others_load(self, kept: int, folder: Path) -> None:
        path = folder / "shard-00001.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        data = ImageSet.load(folder)
        assert len(data) == 8
        assert list(data.refused) == [path.name]
        assert "shard-00001.safetensors is corrupt" in data.refused[path.name]
        expected = torch.cat([make_shard(4, 0).soft_labels, make_shard(4, 2).soft_labels])
        assert torch.equal(data.soft_labels, expected)

    def test_flipped_bit_and_missing_shard(self, folder: Path) -> None:
        path = folder / "shard-00000.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        (folder / "shard-00002.safetensors").unlink()
        data = ImageSet.load(folder)
        assert len(data) == 4
        assert "is corrupt" in data.refused["shard-00000.safetensors"]
        assert "is missing" in data.refused["shard-00002.safetensors"]

    def test_no_whole_shard(self, folder: Path) -> None:
        for path in folder.glob("*.safetensors"):
            path.write_bytes(b"")
        with pytest.raises(DataError, match="shard-00002.*run the same 'mixmix synthesize' again"):
            ImageSet.load(folder)

    def test_shard_of_other_tensors(self, folder: Path) -> None:
        name = "shard-00000.safetensors"
        digest = write_tensors(folder / name, {"pixels": torch.zeros(1)})
        edit_manifest(folder, shards=[{"file": name, "sha256": digest}])
        with pytest.raises(DataError, match="contains pixels, expected images, labels"):
            ImageSet.load(folder)

    def test_folder_without_data_set(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="contains no synthetic data set"):
            ImageSet.load(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format": "other/1"}, "has format 'other/1', expected 'mixmix-synthetic-images/1'"),
            ({"shards": []}, "no shard has been finished"),
            ({"shards": 3}, "lists no shards with file and sha256"),
            ({"shards": [{"file": "x"}]}, "lists no shards with file and sha256"),
            ({"shards": ["x"]}, "lists no shards with file and sha256"),
        ],
    )
    def test_manifest_of_other_content(
        self, changes: dict[str, Any], message: str, folder: Path
    ) -> None:
        edit_manifest(folder, **changes)
        with pytest.raises(DataError, match=message):
            ImageSet.load(folder)

    def test_truncated_manifest(self, folder: Path) -> None:
        (folder / MANIFEST_NAME).write_text('{"format": ')
        with pytest.raises(DataError, match=r"manifest\.json as JSON"):
            ImageSet.load(folder)


class TestSave:
    def test_round_trip(self, folder: Path, tmp_path: Path) -> None:
        data = ImageSet.load(folder)
        copy = ImageSet.load(data.save(tmp_path / "copy"))
        assert torch.equal(copy.images, data.images)
        assert torch.equal(copy.labels, data.labels)
        assert torch.equal(copy.soft_labels, data.soft_labels)
        assert copy.classes == data.classes

    def test_refuses_to_overwrite(self, folder: Path) -> None:
        with pytest.raises(InputError, match="already contains a data set"):
            ImageSet.load(folder).save(folder)


class TestPictures:
    def test_image_folder_keeps_every_pixel_and_label(self, folder: Path, tmp_path: Path) -> None:
        data = ImageSet.load(folder)
        out = data.export_image_folder(tmp_path / "pictures")
        assert sorted(p.name for p in out.iterdir()) == ["0_cat", "1_dog", "2_a_b_c"]
        for path in out.glob("*/*.png"):
            index = int(path.stem)
            with Image.open(path) as picture:
                pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)
            assert torch.equal(pixels.float() / 255, data.images[index])
            assert path.parent.name.startswith(f"{data.labels[index]}_")
        assert len(list(out.glob("*/*.png"))) == len(data)

    def test_torchvision_reads_the_image_folder(self, folder: Path, tmp_path: Path) -> None:
        datasets = pytest.importorskip("torchvision.datasets")
        transforms = pytest.importorskip("torchvision.transforms")
        data = ImageSet.load(folder)
        read = datasets.ImageFolder(
            data.export_image_folder(tmp_path / "pictures"), transforms.ToTensor()
        )
        assert read.targets == sorted(data.labels.tolist())
        order = data.labels.argsort(stable=True)
        assert torch.equal(torch.stack([image for image, _ in read]), data.images[order])

    def test_gray_images(self, tmp_path: Path) -> None:
        data = ImageSet.from_shards([make_shard(3, 0, channels=1)], {})
        out = data.export_image_folder(tmp_path)
        with Image.open(out / "1_1" / "000001.png") as picture:
            assert picture.mode == "L"
            assert torch.equal(
                torch.from_numpy(np.asarray(picture) / 255).float(), data.images[1, 0]
            )

    def test_images_of_backbones_have_one_class(self, tmp_path: Path) -> None:
        data = ImageSet(torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), torch.zeros(2, 0), {})
        data.export_image_folder(tmp_path)
        assert sorted(p.name for p in tmp_path.rglob("*.png")) == ["000000.png", "000001.png"]

    def test_other_channels_are_refused(self, tmp_path: Path) -> None:
        data = ImageSet.from_shards([make_shard(3, 0, channels=5)], {})
        with pytest.raises(InputError, match="have 1 or 3 channels, got 5"):
            data.export_image_folder(tmp_path)
        with pytest.raises(InputError, match="use ImageSet.save"):
            data.contact_sheet(tmp_path / "sheet.png")

    @pytest.mark.parametrize(("rows", "columns"), [(10, 10), (2, 3), (3, 1)])
    def test_contact_sheet(self, rows: int, columns: int, folder: Path, tmp_path: Path) -> None:
        data, scale = ImageSet.load(folder), 2
        target = data.contact_sheet(tmp_path / "a" / "sheet.png", rows=rows, columns=columns)
        with Image.open(target) as picture:
            size = picture.size
            sheet = np.asarray(picture)
        # One white pixel around every image; 6 high, 5 wide, three classes.
        assert size == ((columns * 6 + 1) * scale, (min(rows, 3) * 7 + 1) * scale)
        first = torch.from_numpy(sheet[scale : 7 * scale : scale, scale : 6 * scale : scale].copy())
        assert torch.equal(first.permute(2, 0, 1).float() / 255, data.images[0])
        assert (sheet[:scale] == 255).all()


@pytest.mark.parametrize(
    ("images", "labels", "soft"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2), torch.zeros(2, 3)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1), torch.zeros(2, 3)),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2), torch.zeros(3, 3)),
    ],
)
def test_shapes_that_do_not_go_together(images: Tensor, labels: Tensor, soft: Tensor) -> None:
    with pytest.raises(InputError, match="expected images"):
        ImageSet(images, labels, soft, {})


def test_bytes_are_no_images() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(InputError, match="floats in \\[0, 1\\], got torch.uint8"):
        ImageSet(images, torch.zeros(2), torch.zeros(2, 3), {})


def test_a_contact_sheet_of_more_classes_than_images_has_no_gaps(tmp_path: Path) -> None:
    images = torch.rand(6, 3, 130, 4)
    data = ImageSet(images, torch.arange(6) * 7, torch.zeros(6, 50), {})
    with Image.open(data.contact_sheet(tmp_path / "sheet.png", columns=4)) as picture:
        assert picture.size == (4 * 5 + 1, 2 * 131 + 1)


def test_every_value_of_a_pixel_survives_the_disk(tmp_path: Path) -> None:
    pixels = (torch.arange(256.0) / 255).view(1, 1, 16, 16)
    data = ImageSet(pixels, torch.zeros(1, dtype=torch.int64), torch.ones(1, 2) / 2, {})
    data.save(tmp_path / "saved")
    assert torch.equal(ImageSet.load(tmp_path / "saved").images, pixels)
    # What lies between two values goes to the nearer one.
    between = ImageSet(pixels * 254.7 / 255, data.labels, data.soft_labels, {})
    between.save(tmp_path / "rounded")
    found = ImageSet.load(tmp_path / "rounded").images * 255
    assert float((found - between.images * 255).abs().max()) <= 0.5
