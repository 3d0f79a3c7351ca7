"""Classifiers of torchvision, by their names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from mixmix.errors import InputError, first_line
from mixmix.models.sources.label_sets import known_label_set
from mixmix.models.sources.source import Source, check_pretrained, given_shape, require
from mixmix.models.spec import ModelSpec

__all__ = ["TorchvisionSource"]

# Both normalize a second time inside, as their weights were trained.
_INCEPTION = ("googlenet", "inception_v3")


class TorchvisionSource(Source):
    """``torchvision:NAME``, with the default weights of that name."""

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        weights = _weights(name)
        if weights is None:
            return {}
        transforms = weights.transforms()
        classes = tuple(weights.meta.get("categories", ()))
        height, width = (given_shape(given) or (3, *(transforms.crop_size * 2)[:2]))[1:]
        return {
            "input_shape": (3, height, width),
            "mean": tuple(transforms.mean),
            "std": tuple(transforms.std),
            "num_classes": len(classes),
            "classes": classes,
            "label_set": known_label_set(classes),
        }

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        return _build(name, spec)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        weights = _weights(name)
        if weights is None:
            raise InputError(
                f"{spec.name}: torchvision has no weights for {name}; give torchvision:{name}@FILE"
            )
        check_pretrained(spec, self.describe(name, {}))
        try:
            # Hashes are part of the names, and no other pickled object is wanted.
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except Exception as error:  # of the download, of the file
            raise InputError(
                f"{spec.name}: the weights of {spec.source} are not in the cache and cannot be "
                f"downloaded ({first_line(error)}); connect to the internet once, or give a local "
                f"file: {spec.source}@FILE, or weights in a spec file"
            ) from error
        model = _build(name, spec, num_classes=len(weights.meta["categories"]))
        model.load_state_dict({_renamed(key): value for key, value in state.items()})
        return model


def _renamed(key: str) -> str:
    """DenseNet's checkpoints are older than its module names: ``denselayer1.norm.1.weight``."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)


def _weights(name: str) -> Any:
    """The default weights of a classifier, or None where there are none."""
    torchvision = require("torchvision", f"torchvision:{name}", "'mixmix[torchvision]'")
    models = torchvision.models
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, 4, 0.5)
        raise InputError(
            f"torchvision {torchvision.__version__} has no classifier {name!r}; "
            f"near: {', '.join(near) or 'none'}"
        )
    known = models.get_model_weights(name)
    return known.DEFAULT if len(known) else None


def _build(name: str, spec: ModelSpec, *, num_classes: int | None = None) -> nn.Module:
    torchvision = require("torchvision", f"torchvision:{name}", "'mixmix[torchvision]'")
    channels, height, width = spec.input_shape
    if channels != 3:
        raise InputError(
            f"{spec.name}: torchvision's networks take 3 channels, the spec says {channels}; use "
            "timm:NAME, or your own constructor as python:MODULE:CALLABLE"
        )
    further: dict[str, Any] = {}
    if name in _INCEPTION:
        further = {"transform_input": True, "aux_logits": True, "init_weights": False}
    if name.startswith("vit_") and height == width:
        further = {"image_size": height}
    if num_classes is None and spec.num_classes:
        num_classes = spec.num_classes
    if num_classes is not None:
        further["num_classes"] = num_classes
    try:
        model = torchvision.models.get_model(name, weights=None, **further)
    except Exception as error:  # of the constructor
        raise InputError(
            f"{spec.name}: torchvision cannot make {name} for {num_classes} classes: "
            f"{first_line(error)}; check num_classes and input_shape"
        ) from error
    assert isinstance(model, nn.Module)
    return model
