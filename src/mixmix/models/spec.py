"""The specification of a pretrained network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from mixmix._display import did_you_mean
from mixmix._settings import Settings
from mixmix.errors import DataError, InputError
from mixmix.models.classes import tell_sides

__all__ = ["ModelSpec", "channels_first_hint"]

# Of one image; 8192 x 8192 x 3 fit.
_MOST_VALUES = 2**28
_NOT_OF_RESULTS = ("weights", "sha256", "resize", "interpolation")
# Of images in [0, 1], means and standard deviations are at most 1.
_LARGEST_FACTOR = 4.0


@dataclass(frozen=True, repr=False)
class ModelSpec(Settings):
    """Everything known about a pretrained classifier except its weights.

    >>> import mixmix
    >>> spec = mixmix.ModelSpec("mine", "module", (3, 32, 32), mean=0.5, std=0.25, num_classes=10)
    >>> spec.mean
    (0.5, 0.5, 0.5)

    Attributes:
        name: in tables and records.
        source: reference to the architecture, such as ``bundled:NAME`` or
            ``python:MODULE:CALLABLE`` (see ``load_spec``), or ``module`` for a module that the
            caller built.
        input_shape: (C, H, W) of one image.
        mean: subtracted from images in [0, 1], per channel; one number applies to all channels.
        std: then divides the images, per channel; one number applies to all channels.
        num_classes: K, the number of logits; 0 for a backbone without a label head.
        weights: path of a safetensors or PyTorch state dict, or None for the source's weights.
        label_set: name of the label set; networks with the same one have the same classes in the
            same order.
        classes: names of the classes, or empty. By names, classes are matched between networks that
            have them in another order or have additional ones.
        label_map: for each class of the zoo, the name or index of this network's class; empty to
            map by names.
        license: SPDX identifier or a short note.
        sha256: hash of the loaded weights (``storage.sha256_of_tensors`` of the state dict), or
            empty. Other weights are an error.
        top1: measured accuracy in percent, or None.
        multi_label: whether an image may have several classes or none, so that each logit is for
            itself (sigmoid instead of softmax).
        flip: whether mirrored images keep their class, unlike text, digits, traffic signs and
            whatever tells left from right. By default, the names of the classes and the network's
            predictions decide (see ``data.flips``).
        resize: shorter side that photographs are scaled to before their center is cropped to the
            input; None scales them to cover it. Noted in exported files.
        interpolation: of that scaling, such as bicubic; empty if unknown.

    Raises:
        InputError: if a field is invalid.
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
    multi_label: bool = False
    flip: bool | None = None
    resize: int | None = None
    interpolation: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.input_shape, list | tuple) and not _fits_memory(self.input_shape):
            self._require(False, "input_shape", f"at most {_MOST_VALUES:,} values in all")
        for name in ("mean", "std"):
            value = getattr(self, name)
            is_shape = isinstance(self.input_shape, list | tuple) and len(self.input_shape) > 0
            channels = self.input_shape[0] if is_shape else None
            if isinstance(value, int | float) and isinstance(channels, int):
                value = float(value) if _is_finite(value) else value
                object.__setattr__(self, name, (value,) * channels)
        for name in ("input_shape", "mean", "std", "classes", "label_map"):
            value = getattr(self, name)
            is_sequence = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
            self._require(is_sequence, name, "a sequence")
            object.__setattr__(self, name, tuple(value))
        self._require(
            len(self.input_shape) == 3
            and all(type(size) is int and size >= 1 for size in self.input_shape),
            "input_shape",
            "(channels, height, width), three whole numbers >= 1",
        )
        channels = self.input_shape[0]
        if len(self.mean) != channels or len(self.std) != channels:
            raise InputError(
                f"{self.name}: mean and std need one value for each of the {channels} channels, "
                f"got {len(self.mean)} and {len(self.std)}" + channels_first_hint(self.input_shape)
            )
        for name in ("mean", "std"):
            self._require(all(map(_is_finite, getattr(self, name))), name, "finite numbers")
        self._require(min(self.std) > 0, "std", "positive")
        largest = max(*map(abs, self.mean), *self.std)
        if largest > _LARGEST_FACTOR:
            raise InputError(
                f"{self.name}: mean {self.mean} and std {self.std} are for pixels from 0 to 255, "
                "expected those of images in [0, 1]; divide both by 255"
            )
        self._require_int("num_classes", least=0)
        self._require_int("resize", least=1, optional=True)
        if self.num_classes == 1:
            raise InputError(
                f"{self.name}: num_classes is 1, and a single logit z leaves no class to choose; "
                "wrap the network in a module that returns two, "
                "torch.cat([torch.zeros_like(z), z], 1), whose softmax has the sigmoid of z, and "
                "set num_classes = 2; a network that does not classify has num_classes = 0"
            )
        if self.classes and len(self.classes) != self.num_classes:
            raise InputError(
                f"{self.name}: {len(self.classes)} class names for {self.num_classes} classes"
            )
        self._require(all(isinstance(each, str) for each in self.classes), "classes", "names")
        self._require(self.top1 is None or _is_finite(self.top1), "top1", "a percentage or None")
        self._require(
            all(isinstance(e, int | str) and not isinstance(e, bool) for e in self.label_map),
            "label_map",
            "names or indices of classes",
        )

    def _field_label(self, name: str) -> str:
        return f"{self.name}: {name}"

    def identity(self) -> dict[str, Any]:
        """All fields but those on weights, which ``Model.identity`` has the hash of, and files."""
        return {k: v for k, v in self.to_dict().items() if k not in _NOT_OF_RESULTS}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes from logits (N, K)."""
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    @property
    def may_flip(self) -> bool:
        """``flip``, or else whether names of classes tell no left from right."""
        return not tell_sides(self.classes) if self.flip is None else self.flip

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModelSpec:
        """Build a spec from JSON or TOML.

        Raises:
            InputError: if a key is missing or unknown, or a value is invalid.
        """
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(set(content) - set(known))
        if unknown:
            raise InputError(
                f"unknown keys in a model spec: {', '.join(unknown)}; known: {', '.join(known)}"
                + did_you_mean(unknown, known)
            )
        required = ("name", "source", "input_shape", "mean", "std", "num_classes")
        missing = [name for name in required if name not in content]
        if missing:
            raise InputError(f"a model spec also needs {', '.join(missing)}")
        return cls(**content)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], origin: str) -> ModelSpec | None:
        """The spec that ``export`` wrote into a file, or None.

        Args:
            metadata: of the file, by key.
            origin: the file, for error messages.

        Raises:
            DataError: if it is malformed.
        """
        text = metadata.get("mixmix.spec")
        if not text:
            return None
        try:
            content = json.loads(text)
            if not isinstance(content, dict):
                raise TypeError(f"a {type(content).__name__} in place of a table")
            return cls.from_dict(content)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"{origin} contains a malformed spec: {error}") from error


def channels_first_hint(shape: Sequence[int]) -> str:
    """What to write if a shape (C, H, W) seems to have its channels last, else nothing."""
    height, width, channels = shape
    if not channels <= 4 < min(height, width):
        return ""
    return f"; input_shape has the channels first: did you mean {channels},{height},{width}?"


def _is_finite(value: object) -> bool:
    # Whole numbers beyond those of floats cannot be converted.
    return isinstance(value, int | float) and abs(value) < 1e30


def _fits_memory(shape: Sequence[Any]) -> bool:
    """Whether one image of this shape is no mistake of a file."""
    sizes = [size for size in shape if isinstance(size, int) and size > 0]
    return math.prod(sizes) <= _MOST_VALUES and all(size <= 2**16 for size in sizes)
