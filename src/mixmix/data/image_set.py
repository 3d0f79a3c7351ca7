"""``ImageSet``: images with labels and provenance."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from mixmix._display import format_value, percent, summary
from mixmix.data.labels import index_in, label_agreement, map_labels, map_soft_labels
from mixmix.data.pixels import encoded, tensor_to_pil, to_unit_range
from mixmix.data.shards import FORMAT, MANIFEST_NAME, Shard, read_manifest, shard_name
from mixmix.errors import DataError, InputError
from mixmix.models.classes import LabelSpace
from mixmix.runtime.storage import sha256_of_tensors, write_atomic, write_record

__all__ = ["ImageSet", "file_name"]

# Of probabilities.
_ROUNDING = 1e-3

# Smaller images are doubled on contact sheets.
_LARGE = 128
# Size of the contact sheet in a notebook.
_SHEET_ROWS, _SHEET_COLUMNS, _SHEET_PIXELS = 4, 12, 900


class ImageSet(Dataset[tuple[Tensor, Tensor]]):
    """Images with labels, soft labels and provenance.

    Returned by ``synthesize`` and ``generate``; ``as_image_set`` converts your own images. A torch
    ``Dataset`` of pairs (image, label): image (C, H, W) float32 in [0, 1], label an int64 scalar.
    Synthesized pixels are multiples of 1/255, so that exporting PNG files is lossless.

    Attributes:
        images: (N, C, H, W), floats in [0, 1].
        labels: (N,) int64.
        soft_labels: (N, K) float32, probabilities averaged over the zoo; K = 0 without classes.
        manifest: provenance: model hashes, settings, seed, versions, losses per step.
        refused: why a shard was not loaded, by its file name.
        path: the folder it was loaded from, or None.

    Raises:
        InputError: if shapes or types are wrong.

    >>> import torch
    >>> pixels, labels = torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])
    >>> images = mixmix.ImageSet(pixels, labels, torch.eye(2), {})
    >>> first, second = images.split(1)
    >>> mixmix.ImageSet.join([first, second])
    ImageSet(images=2, shape=(3, 8, 8), classes=2, label_agreement=100.0%)
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
        dimensions = (images.ndim, labels.ndim, soft_labels.ndim)
        if dimensions != (4, 1, 2) or not len(images) == len(labels) == len(soft_labels):
            raise InputError(
                f"expected images (N, C, H, W), labels (N,) and soft labels (N, K), got shapes "
                f"{tuple(images.shape)}, {tuple(labels.shape)}, {tuple(soft_labels.shape)}"
            )
        if not images.is_floating_point():
            raise InputError(
                f"expected images as floats in [0, 1], got {images.dtype}; divide bytes by 255"
            )
        if labels.is_floating_point() or labels.is_complex():
            raise InputError(f"expected labels as class indices, got {labels.dtype}")
        if not bool(torch.isfinite(images).all()):
            raise InputError("images contain NaN or infinite values, expected numbers in [0, 1]")
        to_unit_range(images)
        if not bool(torch.isfinite(soft_labels).all()):
            raise InputError("soft labels contain NaN or infinite values, expected probabilities")
        if bool(((soft_labels < -_ROUNDING) | (soft_labels > 1 + _ROUNDING)).any()):
            low, high = float(soft_labels.min()), float(soft_labels.max())
            raise InputError(
                f"soft labels are from {low:.3g} to {high:.3g}, expected probabilities; take the "
                "softmax of logits"
            )
        num_classes = soft_labels.shape[1]
        if (
            num_classes
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes
        ):
            raise InputError(
                f"labels are from {int(labels.min())} to {int(labels.max())}, expected 0 to "
                f"{num_classes - 1}, as soft labels have {num_classes} classes"
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
        """Load a folder written by ``synthesize``, ``generate`` or ``save``.

        Missing and damaged shards are skipped and reported in ``refused``. Of an unfinished run,
        the finished shards are loaded.

        Raises:
            DataError: if the manifest cannot be read, or no shard can be loaded.
        """
        folder = Path(path)
        if not (folder / MANIFEST_NAME).exists():
            raise DataError(
                f"{folder} contains no synthetic data set (no {MANIFEST_NAME}); create one with "
                "'mixmix synthesize', or load image files with mixmix.as_image_set"
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
        shapes = {(*each.images.shape[1:], each.soft_labels.shape[1]) for each in shards}
        if len(shapes) > 1:
            raise DataError(f"{folder} holds shards of different images or classes: {shapes}")
        images = cls.from_shards(shards, manifest, refused=refused, path=folder)
        labels, count = images.labels, len(images.classes)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
            raise DataError(
                f"{folder} is damaged: it names {count} classes and has the labels "
                f"{int(labels.min())} to {int(labels.max())}"
            )
        return images

    @classmethod
    def join(cls, sets: Sequence[ImageSet]) -> ImageSet:
        """Join image sets, such as those of ``synthesize`` and ``generate``.

        Images are interleaved in proportion, so that ``split`` takes an equal fraction of each set.
        Labels are in the order of the set with the most classes, to which those of the others are
        matched by name. The manifest has the models of all and, as ``parts``, their manifests.

        Raises:
            InputError: if there is no set, or shapes of images or classes differ.
        """
        if not sets:
            raise InputError("join needs at least one data set")
        named = all(each.class_names for each in sets)
        shapes = {
            (tuple(each.images.shape[1:]), "" if named else each.soft_labels.shape[1])
            for each in sets
        }
        if len(shapes) > 1:
            found = "; ".join(
                f"images {size}" + f", {count} classes" * (count != "")
                for size, count in sorted(shapes)
            )
            raise InputError(
                f"data sets of different images or classes cannot be joined ({found}); use "
                "networks of one input shape and label set"
            )
        manifests = [each.manifest for each in sets]
        # Of those with as many, one with names.
        widest = max(sets, key=lambda each: (each.soft_labels.shape[1], bool(each.class_names)))
        space = widest.label_space
        sets = [each.with_classes(space) for each in sets]
        models = [model for manifest in manifests for model in manifest.get("models", ())]
        unique = {model.get("sha256") or model.get("name"): model for model in models}
        positions = torch.cat([(torch.arange(len(each)) + 0.5) / len(each) for each in sets])
        order = positions.argsort(stable=True)
        return cls(
            torch.cat([each.images for each in sets])[order],
            torch.cat([each.labels for each in sets])[order],
            torch.cat([each.soft_labels for each in sets])[order],
            {
                "models": list(unique.values()),
                "classes": list(space.names),
                "label_set": space.label_set,
                "parts": manifests,
            },
            refused={
                str(Path(each.path or "") / name): reason
                for each in sets
                for name, reason in each.refused.items()
            },
        )

    def __repr__(self) -> str:
        agreement = label_agreement(self.soft_labels, self.labels)
        names = tuple(model.get("name", "?") for model in self.manifest.get("models", ()))
        facts = {
            "images": len(self),
            "shape": tuple(self.images.shape[1:]),
            "classes": self.soft_labels.shape[1],
            "from": format_value(names) if names else self.manifest.get("origin"),
            "label_agreement": None if agreement is None else percent(100 * agreement),
            "refused_shards": len(self.refused) or None,
            "path": self.path,
        }
        return summary("ImageSet", facts)

    def _repr_html_(self) -> str:
        text = f"<pre>{html.escape(repr(self))}</pre>"
        if len(self) == 0 or self.images.shape[1] not in (1, 3):
            return text
        columns = max(1, min(_SHEET_COLUMNS, _SHEET_PIXELS // self.images.shape[3]))
        rows = max(1, min(_SHEET_ROWS, _SHEET_PIXELS // self.images.shape[2]))
        data = base64.b64encode(encoded(self._sheet(rows, columns))).decode("ascii")
        return f'{text}<img alt="contact sheet" src="data:image/png;base64,{data}">'

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def split(self, num_images: int) -> tuple[ImageSet, ImageSet]:
        """The first ``num_images`` images, and the others (for example held out for evaluation).

        Images of a batch were optimized together: use a multiple of ``batch_size`` for independent
        parts. ``part`` in each manifest has the range of images.

        Raises:
            InputError: if a part would be empty.
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
        """SHA-256 of images and labels."""
        return sha256_of_tensors({"images": self.images, "labels": self.labels})

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; their indices (at least one) if names are unknown."""
        indices = (str(index) for index in range(max(1, self.soft_labels.shape[1])))
        return self.class_names or tuple(indices)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, or empty."""
        # Those of the labels come first: networks may have them in another order.
        for source in (self.manifest, *self.manifest.get("models", ())):
            names = tuple(source.get("classes") or ())
            if len(names) == self.soft_labels.shape[1]:
                return names
        return ()

    @property
    def label_space(self) -> LabelSpace:
        """The classes of the labels."""
        label_sets = {model.get("label_set", "") for model in self.manifest.get("models", ())}
        only = label_sets.pop() if len(label_sets) == 1 else ""
        label_set = self.manifest.get("label_set", only)
        return LabelSpace("the image set", self.soft_labels.shape[1], self.class_names, label_set)

    def with_classes(self, space: LabelSpace) -> ImageSet:
        """The images with labels in other classes, matched by name; itself if they are the same.

        Raises:
            InputError: if the classes of the labels are not among them.
        """
        own = self.label_space
        if not (own.num_classes and space.num_classes):
            return self
        indices = index_in(space, own, self.labels)
        if indices is None:
            return self
        return ImageSet(
            self.images,
            map_labels(self.labels, indices),
            map_soft_labels(self.soft_labels, indices, space.num_classes),
            self.manifest | {"classes": list(space.names), "label_set": space.label_set},
            refused=self.refused,
            path=self.path,
        )

    def save(self, path: str | Path) -> Path:
        """Save as one shard and a manifest, in a folder without a data set."""
        folder = Path(path)
        if (folder / MANIFEST_NAME).exists():
            raise InputError(f"{folder} already contains a data set; choose another folder")
        pixels = (self.images * 255).round().to(torch.uint8)
        name = shard_name(0)
        digest = Shard(pixels, self.labels, self.soft_labels).save(folder / name)
        entry = {"file": name, "sha256": digest, "num_images": len(self)}
        write_record(folder / MANIFEST_NAME, self.manifest | {"format": FORMAT, "shards": [entry]})
        return folder

    def export_image_folder(self, path: str | Path) -> Path:
        """Write ``<path>/<class>/<index>.png``, the layout of torchvision's ``ImageFolder``.

        Raises:
            InputError: if the number of channels is neither 1 nor 3.
        """
        folder = Path(path)
        classes = self.classes
        width = len(str(len(classes) - 1))
        for index in range(len(self)):
            label = int(self.labels[index])
            # ImageFolder sorts classes by name.
            parent = folder / f"{label:0{width}d}_{file_name(classes[label])}"
            write_atomic(parent / f"{index:06d}.png", encoded(tensor_to_pil(self.images[index])))
        return folder

    def contact_sheet(self, path: str | Path, *, rows: int = 10, columns: int = 10) -> Path:
        """Write one PNG with up to ``rows`` x ``columns`` images, one row per class.

        If no class has two images, rows are filled in order. Images below 128 pixels are doubled.
        """
        target = Path(path)
        format = Image.registered_extensions().get(target.suffix.lower(), "PNG")
        write_atomic(target, encoded(self._sheet(rows, columns), format))
        return target

    def _sheet(self, rows: int, columns: int) -> Image.Image:
        channels, height, width = self.images.shape[1:]
        lines = self._lines(columns)[:rows]
        sheet = torch.ones(channels, len(lines) * (height + 1) + 1, columns * (width + 1) + 1)
        for row, line in enumerate(lines):
            for column, index in enumerate(line):
                top, left = row * (height + 1) + 1, column * (width + 1) + 1
                sheet[:, top : top + height, left : left + width] = self.images[index]
        image = tensor_to_pil(sheet)
        scale = 2 if max(height, width) < _LARGE else 1
        return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)

    def _lines(self, columns: int) -> list[list[int]]:
        """Indices of images for each row of a contact sheet."""
        classes, counts = self.labels.unique(return_counts=True)
        if int(counts.max()) == 1:
            return [line.tolist() for line in torch.arange(len(self)).split(columns)]
        return [(self.labels == label).nonzero().flatten()[:columns].tolist() for label in classes]


def file_name(text: str) -> str:
    """The name of a class as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:60]
