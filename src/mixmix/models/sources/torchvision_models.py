"""Classifiers of torchvision."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from mixmix.errors import InputError, translate_errors
from mixmix.models.sources.label_sets import known_label_set
from mixmix.models.sources.source import (
    Source,
    check_pretrained,
    names_if_installed,
    require,
    unknown_name,
)
from mixmix.models.spec import ModelSpec

__all__ = ["TorchvisionSource"]

# Both normalize a second time inside, as in training.
_INCEPTION = ("googlenet", "inception_v3")


class TorchvisionSource(Source):
    """``torchvision:NAME``, with its default weights."""

    def describe(self, name: str) -> dict[str, Any]:
        weights = _weights(name)
        if weights is None:
            return {}
        transforms = weights.transforms()
        classes = tuple(weights.meta.get("categories", ()))
        return {
            "input_shape": (3, *(transforms.crop_size * 2)[:2]),
            "mean": tuple(transforms.mean),
            "std": tuple(transforms.std),
            "num_classes": len(classes),
            "classes": classes,
            "label_set": known_label_set(classes),
            "resize": transforms.resize_size[0],
            "interpolation": transforms.interpolation.value,
        }

    def names(self) -> list[str]:
        return names_if_installed("torchvision.models")

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        return _build(name, spec, spec.num_classes or None)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        weights = _weights(name)
        if weights is None:
            raise InputError(
                f"{spec.name}: torchvision has no weights for {name}; use torchvision:{name}@FILE"
            )
        check_pretrained(spec, self.describe(name))
        with translate_errors(
            f"{spec.name}: the weights of {spec.source} are not in the cache and cannot be "
            "downloaded",
            f"connect to the internet once, or use a local file: {spec.source}@FILE, or weights "
            "in a spec file",
        ):
            # The names of the files include their hashes.
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        model = _build(name, spec, len(weights.meta["categories"]))
        model.load_state_dict({_renamed(key): value for key, value in state.items()})
        return model


def _renamed(key: str) -> str:
    """DenseNet's checkpoints have older names: ``denselayer1.norm.1.weight``."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)


def _torchvision(name: str) -> Any:
    return require("torchvision", f"torchvision:{name}", "'mixmix[torchvision]'")


def _weights(name: str) -> Any:
    """The default weights of a classifier, or None if it has none."""
    torchvision = _torchvision(name)
    models = torchvision.models
    names = models.list_models(module=models)
    if name not in names:
        raise unknown_name(f"torchvision {torchvision.__version__} has no classifier", name, names)
    known = models.get_model_weights(name)
    return known.DEFAULT if len(known) else None


def _build(name: str, spec: ModelSpec, num_classes: int | None) -> nn.Module:
    channels, height, width = spec.input_shape
    if channels != 3:
        raise InputError(
            f"{spec.name}: torchvision's networks take 3 channels, the spec says {channels}; use "
            "timm:NAME, or your own constructor as python:MODULE:CALLABLE"
        )
    arguments: dict[str, Any] = {}
    if name in _INCEPTION:
        arguments = {"transform_input": True, "aux_logits": True, "init_weights": False}
    if name.startswith("vit_") and height == width:
        arguments = {"image_size": height}
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    with translate_errors(
        f"{spec.name}: torchvision cannot build {name} for {num_classes} classes",
        "check num_classes and input_shape",
    ):
        model: nn.Module = _torchvision(name).models.get_model(name, weights=None, **arguments)
    return model
