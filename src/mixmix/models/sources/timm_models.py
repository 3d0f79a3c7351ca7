"""Models of timm, by name and from repositories in its format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mixmix.errors import InputError, translate_errors
from mixmix.models.sources.hub import hub_json, hub_weights
from mixmix.models.sources.label_sets import IMAGENET1K, imagenet1k_names, known_label_set
from mixmix.models.sources.source import (
    Source,
    check_pretrained,
    names_if_installed,
    require,
    unknown_name,
)
from mixmix.models.spec import ModelSpec

__all__ = ["TimmModel", "TimmSource", "repository_model"]

_INSTALL = "'mixmix[timm]'"
_HUB = ("hf-hub:", "hf_hub:")
# Fields of pretrained_cfg that mixmix or timm reads.
_CONFIG = {"input_size", "mean", "std", "num_classes", "license", "fixed_input_size", "tag"}
_CONFIG |= {"first_conv", "classifier", "interpolation", "crop_pct"}
# Arguments of the constructor that the spec sets.
_FROM_SPEC = ("num_classes", "in_chans", "img_size", "pretrained", "pretrained_cfg")


@dataclass(frozen=True)
class TimmModel:
    """An architecture of timm and its pretrained weights.

    Attributes:
        architecture: its name in timm.
        config: timm's ``pretrained_cfg``.
        arguments: further arguments of the constructor.
        repository: with the weights, on the hub or a folder; empty if timm finds them.
        classes: their names, or empty.
    """

    architecture: str
    config: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    repository: str = ""
    classes: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Fields of ``ModelSpec``."""
        config, classes, label_set = self.config, self.classes, known_label_set(self.classes)
        if not classes and config.get("num_classes") == 1000 and "in1k" in str(config.get("tag")):
            classes, label_set = imagenet1k_names(), IMAGENET1K
        size, fraction = config.get("input_size"), config.get("crop_pct")
        known = {
            "input_shape": size,
            "mean": config.get("mean"),
            "std": config.get("std"),
            "num_classes": config.get("num_classes"),
            "license": config.get("license"),
            "classes": classes,
            "label_set": label_set,
            "resize": math.floor(min(size[1:]) / fraction) if size and fraction else None,
            "interpolation": config.get("interpolation"),
        }
        return {key: value for key, value in known.items() if value is not None}

    def build(self, spec: ModelSpec) -> nn.Module:
        """The architecture for the classes, channels and size of a spec, with new weights."""
        return self._create(spec, "check num_classes and input_shape")

    def load(self, spec: ModelSpec) -> nn.Module:
        """The pretrained network."""
        check_pretrained(spec, self.describe())
        config = dict(self.config)
        if self.repository:
            paths = hub_weights(self.repository)
            if len(paths) > 1:
                raise InputError(f"{spec.name}: timm cannot load weights in {len(paths)} parts")
            config |= {"file": str(paths[0]), "custom_load": False}
        elif not any(config.get(key) for key in ("url", "file", "hf_hub_id")):
            raise InputError(
                f"{spec.name}: timm has no pretrained weights for {self.architecture}; use a "
                f"checkpoint: {spec.source}@FILE, or weights in a spec file"
            )
        advice = f"use a local file: {spec.source}@FILE, or weights in a spec file"
        return self._create(spec, advice, pretrained=True, pretrained_cfg=config)

    def _create(self, spec: ModelSpec, advice: str, **options: Any) -> nn.Module:
        import timm

        size = tuple(spec.input_shape[1:])
        if self.config.get("fixed_input_size") and size != tuple(self.config["input_size"][1:]):
            options["img_size"] = size
        with translate_errors(
            f"{spec.name}: timm cannot build {self.architecture} for images of "
            f"{spec.input_shape} and {spec.num_classes} classes",
            advice,
        ):
            model: nn.Module = timm.create_model(
                self.architecture,
                num_classes=spec.num_classes,
                in_chans=spec.input_shape[0],
                **self.arguments,
                **options,
            )
        return model


class TimmSource(Source):
    """``timm:NAME``, ``timm:NAME.TAG``, ``timm:hf-hub:OWNER/NAME``."""

    def describe(self, name: str) -> dict[str, Any]:
        return _find_model(name).describe()

    def names(self) -> list[str]:
        return names_if_installed("timm")

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        return _find_model(name).build(spec)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        return _find_model(name).load(spec)


def _find_model(name: str) -> TimmModel:
    timm = require("timm", f"timm:{name}", _INSTALL)
    if name.startswith(_HUB):
        repository = name[len(_HUB[0]) :]
        return repository_model(repository, hub_json(repository, "config.json"))
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        problem = f"timm {timm.__version__} has no model"
        raise unknown_name(problem, name, timm.list_models())
    with translate_errors(f"timm:{name} is not known to timm"):
        found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if found is None and tag:
        tags = timm.list_pretrained(f"{architecture}*")
        known = [model for model in tags if model.startswith(f"{architecture}.")]
        raise InputError(
            f"timm has no weights {tag!r} for {architecture}; known: {', '.join(known[:6])}"
        )
    config = {} if found is None else found.to_dict()
    return TimmModel(architecture, config, repository=_own_repository(config))


def _own_repository(config: Mapping[str, Any]) -> str:
    """The repository with the weights as safetensors; timm finds other formats itself."""
    own = str(config.get("hf_hub_id") or "")
    return own if own.startswith("timm/") and not config.get("hf_hub_filename") else ""


def repository_model(repository: str, config: Mapping[str, Any]) -> TimmModel:
    """The model of a repository in timm's format.

    Args:
        repository: on the hub or a folder.
        config: its ``config.json``.

    Raises:
        InputError: if timm is missing or has no such model.
    """
    timm = require("timm", repository, _INSTALL)
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(
            f"{repository} has no config.json with an architecture of timm {timm.__version__}, got "
            f"{architecture!r}"
        )
    # Older repositories have the fields of pretrained_cfg at the top level.
    cfg = {**config, **config.get("pretrained_cfg", {})}
    cfg["num_classes"] = config.get("num_classes", cfg.get("num_classes"))
    descriptions = config.get("label_descriptions", {})
    arguments = {
        key: value
        for key, value in (config.get("model_args") or {}).items()
        if key not in _FROM_SPEC
    }
    return TimmModel(
        architecture,
        {k: v for k, v in cfg.items() if k in _CONFIG and v is not None},
        arguments,
        repository,
        tuple(str(descriptions.get(name, name)) for name in config.get("label_names", ())),
    )
