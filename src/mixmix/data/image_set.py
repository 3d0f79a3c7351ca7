"""``ImageSet``: images with labels, and how they were made."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mixmix._display import format_value, percent, summary
from mixmix.data.pictures import to_picture
from mixmix.data.shards import FORMAT, MANIFEST_NAME, Shard, read_manifest, shard_name
from mixmix.errors import DataError, InputError
from mixmix.runtime.storage import (
    sha256_of_tensors,
    write_json,
)

__all__ = ["ImageSet", "label_agreement"]

# Pixels of a side, from which an image is seen well enough as it is.
_LARGE = 128
# Of the contact sheet in a notebook.
_SHEET_ROWS, _SHEET_COLUMNS, _SHEET_PIXELS = 4, 12, 900


class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """Images with hard and soft labels, and how they were made.

    ``synthesize`` and ``generate`` make them; ``as_image_set`` makes one of your own images.

    As a torch ``Dataset`` it gives ``(image, label)``: image (C, H, W) float32 in [0, 1], label an
    int64 scalar. Pixels are 8-bit values, so that exporting PNGs loses nothing.

    Attributes:
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64.
        soft_labels: (N, K) float32, probabilities averaged over the zoo.
        manifest: provenance: model hashes, settings, seed, versions, losses per step.
        refused: what is wrong with each shard that was left out, by its file name.
        path: the folder it was read from, or None.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        soft_labels: Tensor,
        manifest: dict[str, Any],
        *,
        refused: dict[str, str] | None = None,
        path: Path | None = None,
    ) -> None:
        if images.ndim != 4 or not len(images) == len(labels) == len(soft_labels):
            raise InputError(
                f"expected images (N, C, H, W), labels (N,) and soft labels (N, K), got shapes "
                f"{tuple(images.shape)}, {tuple(labels.shape)}, {tuple(soft_labels.shape)}"
            )
        if not images.is_floating_point():
            raise InputError(
                f"expected images as floats in [0, 1], got {images.dtype}; divide bytes by 255"
            )
        self.images = images
        self.labels = labels
        self.soft_labels = soft_labels
        self.manifest = manifest
        self.refused = refused or {}
        self.path = path

    @classmethod
    def from_shards(
        cls, shards: Sequence[Shard], manifest: dict[str, Any], **options: Any
    ) -> ImageSet:
        """Join shards in order."""
        return cls(
            torch.cat([shard.images for shard in shards]).float() / 255,
            torch.cat([shard.labels for shard in shards]),
            torch.cat([shard.soft_labels for shard in shards]),
            manifest,
            **options,
        )

    @classmethod
    def load(cls, path: str | Path) -> ImageSet:
        """Open a folder written by ``synthesize``.

        Shards that are missing or corrupt are left out and named in ``refused``; the others load.
        The folder of a run that is not finished opens with the shards that are.

        Raises:
            DataError: if there is no readable manifest, or no shard is whole.
        """
        folder = Path(path)
        if not (folder / MANIFEST_NAME).exists():
            raise DataError(
                f"{folder} holds no synthetic data set (no {MANIFEST_NAME}); make one with "
                "'mixmix synthesize', or read photographs with mixmix.as_image_set"
            )
        manifest = read_manifest(folder)
        shards, refused = [], {}
        for entry in manifest["shards"]:
            name = entry["file"]
            try:
                shards.append(Shard.load(folder / name, entry["sha256"]))
            except DataError as error:
                refused[name] = str(error)
        if not shards:
            reasons = "; ".join(refused.values()) or "no shard has been finished"
            raise DataError(f"{folder}: {reasons}; run the same 'mixmix synthesize' again")
        return cls.from_shards(shards, manifest, refused=refused, path=folder)

    @classmethod
    def join(cls, parts: Sequence[ImageSet]) -> ImageSet:
        """One data set of several, such as images of ``synthesize`` and ``generate``.

        Those of each stay in order and are spread evenly, so that ``split`` takes as large a share
        of each.

        Its manifest has the models and classes of all and, as ``parts``, the manifest of each. What
        was left out of them is named by its path.

        Raises:
            InputError: if there is none, or their images or classes do not fit each other.
        """
        if not parts:
            raise InputError("join needs at least one data set")
        shapes = {(tuple(p.images.shape[1:]), p.soft_labels.shape[1]) for p in parts}
        if len(shapes) > 1:
            told = "; ".join(f"images {size}, {count} classes" for size, count in sorted(shapes))
            raise InputError(
                f"data sets of different images or classes cannot be joined ({told}); make all of "
                "them from networks of the same input and classes"
            )
        manifests = [part.manifest for part in parts]
        models = {
            model.get("sha256") or model.get("name"): model
            for manifest in manifests
            for model in manifest.get("models", ())
        }
        places = torch.cat([(torch.arange(len(part)) + 0.5) / len(part) for part in parts])
        order = places.argsort(stable=True)
        return cls(
            torch.cat([part.images for part in parts])[order],
            torch.cat([part.labels for part in parts])[order],
            torch.cat([part.soft_labels for part in parts])[order],
            {
                "models": list(models.values()),
                "classes": next((m["classes"] for m in manifests if m.get("classes")), []),
                "parts": manifests,
            },
            refused={
                str(Path(part.path or "") / name): reason
                for part in parts
                for name, reason in part.refused.items()
            },
        )

    def __repr__(self) -> str:
        agreement = label_agreement(self.soft_labels, self.labels)
        facts = {
            "images": len(self),
            "shape": tuple(self.images.shape[1:]),
            "classes": self.soft_labels.shape[1],
            "from": self._origin,
            "label_agreement": None if agreement is None else percent(100 * agreement),
            "refused_shards": len(self.refused) or None,
            "path": self.path,
        }
        return summary("ImageSet", facts)

    @property
    def _origin(self) -> str | None:
        """The networks that the images were made from, or what else is known."""
        names = tuple(model.get("name", "?") for model in self.manifest.get("models", ()))
        return format_value(names) if names else self.manifest.get("origin")

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(repr(self))}</pre>"
        if len(self) == 0 or self.images.shape[1] not in (1, 3):
            return text
        buffer = io.BytesIO()
        columns = max(1, min(_SHEET_COLUMNS, _SHEET_PIXELS // self.images.shape[3]))
        rows = max(1, min(_SHEET_ROWS, _SHEET_PIXELS // self.images.shape[2]))
        self._sheet(rows, columns, None).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        return f'{text}<img alt="contact sheet" src="data:image/png;base64,{data}">'

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def split(self, num_images: int) -> tuple[ImageSet, ImageSet]:
        """The first ``num_images`` images and the others: some to compress with, some to judge by.

        Images of one batch were optimized together, so a multiple of ``batch_size`` keeps both
        parts apart. The manifest of each says which images of the whole it has (``part``).

        Raises:
            InputError: if one of the parts would be empty.
        """
        if not 0 < num_images < len(self):
            raise InputError(
                f"num_images must be from 1 to {len(self) - 1} to split {len(self)} images, got "
                f"{num_images}"
            )
        return self._part(0, num_images), self._part(num_images, len(self))

    def _part(self, start: int, stop: int) -> ImageSet:
        earlier = self.manifest.get("part", {"first": 0})["first"]
        part = {"first": earlier + start, "last": earlier + stop - 1}
        return ImageSet(
            self.images[start:stop],
            self.labels[start:stop],
            self.soft_labels[start:stop],
            self.manifest | {"part": part},
            refused=self.refused,
            path=self.path,
        )

    @property
    def sha256(self) -> str:
        """Of images and labels."""
        return sha256_of_tensors({"images": self.images, "labels": self.labels})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes where the zoo knows them, else the indices of K (at least one)."""
        for model in self.manifest.get("models", []):
            if model.get("classes"):
                return tuple(model["classes"])
        if self.manifest.get("classes"):
            return tuple(self.manifest["classes"])
        return tuple(str(index) for index in range(max(1, self.soft_labels.shape[1])))

    def save(self, path: str | Path) -> Path:
        """Write as one shard with the manifest into a folder that holds no data set yet."""
        folder = Path(path)
        if (folder / MANIFEST_NAME).exists():
            raise InputError(f"{folder} already holds a data set; choose another folder")
        pixels = (self.images * 255).round().to(torch.uint8)
        name = shard_name(0)
        digest = Shard(pixels, self.labels, self.soft_labels).save(folder / name)
        entry = {"file": name, "sha256": digest, "num_images": len(self)}
        write_json(folder / MANIFEST_NAME, self.manifest | {"format": FORMAT, "shards": [entry]})
        return folder

    def export_image_folder(self, path: str | Path) -> Path:
        """Write PNGs as ``<path>/<class>/<index>.png``, which torchvision's ImageFolder opens.

        Raises:
            InputError: if images have neither one nor three channels.
        """
        folder = Path(path)
        classes = self.classes
        width = len(str(len(classes) - 1))
        for index in range(len(self)):
            label = int(self.labels[index])
            # Numbers keep the order of the classes, which ImageFolder takes from the names.
            parent = folder / f"{label:0{width}d}_{_file_name(classes[label])}"
            parent.mkdir(parents=True, exist_ok=True)
            to_picture(self.images[index]).save(parent / f"{index:06d}.png")
        return folder

    def contact_sheet(
        self, path: str | Path, *, rows: int = 10, columns: int = 10, scale: int | None = None
    ) -> Path:
        """Write one PNG with up to ``rows`` x ``columns`` images.

        A row for each class in turn; where no class has two images, row by row. Images are enlarged
        ``scale`` times; None doubles those below 128 pixels.
        """
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._sheet(rows, columns, scale).save(target)
        return target

    def _sheet(self, rows: int, columns: int, scale: int | None) -> Image.Image:
        channels, height, width = self.images.shape[1:]
        lines = self._lines(columns)[:rows]
        sheet = torch.ones(channels, len(lines) * (height + 1) + 1, columns * (width + 1) + 1)
        for row, line in enumerate(lines):
            for column, index in enumerate(line):
                top, left = row * (height + 1) + 1, column * (width + 1) + 1
                sheet[:, top : top + height, left : left + width] = self.images[index]
        picture = to_picture(sheet)
        if scale is None:
            scale = 2 if max(height, width) < _LARGE else 1
        size = (picture.width * scale, picture.height * scale)
        return picture.resize(size, Image.Resampling.NEAREST)

    def _lines(self, columns: int) -> list[list[int]]:
        """Indices of images for each row of a contact sheet."""
        classes, counts = self.labels.unique(return_counts=True)
        if int(counts.max()) == 1:
            return [line.tolist() for line in torch.arange(len(self)).split(columns)]
        return [(self.labels == label).nonzero().flatten()[:columns].tolist() for label in classes]


def label_agreement(soft_labels: Tensor, labels: Tensor) -> float | None:
    """Share of images whose likeliest class is their label; None without a label head.

    Args:
        soft_labels: (N, K).
        labels: (N,).
    """
    if not soft_labels.numel():
        return None
    return float((soft_labels.argmax(1) == labels).float().mean())


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:60]
