"""What has to be known of a network before it can be used without its data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mixmix._display import summary
from mixmix._settings import Settings
from mixmix.errors import DataError, InputError

__all__ = ["ModelSpec"]


@dataclass(frozen=True, repr=False)
class ModelSpec(Settings):
    """Everything about a pretrained classifier that its weights do not say.

    Attributes:
        name: what tables and records call it.
        source: where the architecture comes from: ``bundled:NAME``, ``python:MODULE:CALLABLE``
            (called without arguments, it returns the module), one of ``zoo.sources``, or
            ``module`` for a module that the caller built.
        input_shape: (C, H, W) of one image.
        mean: per channel, subtracted from images in [0, 1]; one number holds for all channels.
        std: per channel, divided by afterwards, likewise.
        num_classes: K, the number of logits; 0 for a backbone without a label head.
        weights: path of a safetensors or PyTorch state dict, or None for those of the source.
        label_set: name of the label set; members with the same name agree on every index.
        classes: names of the classes, or empty. Where two networks have them, they may list the
            classes in another order, and one may have more than the other.
        label_map: to take part in a zoo whose classes are others' or in another order: for each
            class of the zoo, the name or index of this network's class. Empty finds it by names.
        license: SPDX identifier or a short note.
        sha256: hash of the weights as loaded (``storage.sha256_of_tensors`` of the state dict; that
            of a bundled network is the one in its file), or empty. Weights that are loaded from a
            file must have it.
        top1: measured accuracy in percent, or None.
    """

    name: str
    source: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    weights: str | None = None
    label_set: str = ""
    classes: tuple[str, ...] = ()
    label_map: tuple[int | str, ...] = ()
    license: str = ""
    sha256: str = ""
    top1: float | None = None

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, int | float) and isinstance(self.input_shape, list | tuple):
                object.__setattr__(self, name, (float(value),) * int(self.input_shape[0]))
        for name in ("input_shape", "mean", "std", "classes", "label_map"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Iterable):
                raise InputError(f"{self.name}: {name} must be a sequence, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        if len(self.input_shape) != 3 or not all(
            isinstance(size, int) and size >= 1 for size in self.input_shape
        ):
            raise InputError(
                f"{self.name}: input_shape must be (channels, height, width), three whole numbers "
                f">= 1, got {self.input_shape}"
            )
        channels = self.input_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise InputError(
                f"{self.name}: mean and std need one value for each of the {channels} channels, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(_is_finite(value) for value in self.mean + self.std):
            raise InputError(
                f"{self.name}: mean and std must be finite numbers, got {self.mean} and {self.std}"
            )
        if min(self.std) <= 0:
            raise InputError(f"{self.name}: std must be positive, got {self.std}")
        if not isinstance(self.num_classes, int) or self.num_classes < 0:
            raise InputError(
                f"{self.name}: num_classes must be a whole number >= 0, got {self.num_classes!r}"
            )
        if self.num_classes == 1:
            raise InputError(
                f"{self.name}: num_classes is 1, and a single logit z leaves no class to choose; "
                "wrap the network in a module that returns two, "
                "torch.cat([torch.zeros_like(z), z], 1), whose softmax has the sigmoid of z, and "
                "give num_classes = 2"
            )
        if self.classes and len(self.classes) != self.num_classes:
            raise InputError(
                f"{self.name}: {len(self.classes)} class names for {self.num_classes} classes"
            )
        if not all(isinstance(each, int | str) for each in self.label_map):
            raise InputError(
                f"{self.name}: label_map must hold names or indices of classes, got "
                f"{self.label_map}"
            )

    def __repr__(self) -> str:
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return summary("ModelSpec", {k: None if v == () else v for k, v in said.items()})

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModelSpec:
        """Build a spec from JSON or TOML.

        Raises:
            InputError: if a key is missing, unknown or of the wrong form.
        """
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(set(content) - set(known))
        if unknown:
            raise InputError(
                f"unknown keys in a model spec: {', '.join(unknown)}; known: {', '.join(known)}"
            )
        required = ("name", "source", "input_shape", "mean", "std", "num_classes")
        missing = [name for name in required if name not in content]
        if missing:
            raise InputError(f"a model spec needs also: {', '.join(missing)}")
        return cls(**content)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> ModelSpec | None:
        """The spec that ``export`` wrote into a file, or None.

        Args:
            metadata: what the file says of itself, by key.
            origin: what to call the file.

        Raises:
            DataError: if there is one and it is malformed.
        """
        text = metadata.get("mixmix.spec")
        if not text:
            return None
        try:
            return cls.from_dict(json.loads(text))
        except (TypeError, ValueError) as error:
            raise DataError(f"{origin} holds a malformed spec: {error}") from error


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
