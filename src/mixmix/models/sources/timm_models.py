"""Models of timm, by their names and from repositories in timm's format."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mixmix.errors import InputError, first_line
from mixmix.models.sources.hub import hub_json, hub_weights
from mixmix.models.sources.label_sets import IMAGENET1K, imagenet1k_names, known_label_set
from mixmix.models.sources.source import Source, check_pretrained, given_shape, require
from mixmix.models.spec import ModelSpec

__all__ = ["TimmModel", "TimmSource", "repository_model"]

_INSTALL = "'mixmix[timm]'"
_HUB = ("hf-hub:", "hf_hub:")


@dataclass(frozen=True)
class TimmModel:
    """An architecture of timm and what is known of its pretrained weights.

    Attributes:
        architecture: its name in timm.
        config: timm's ``pretrained_cfg``.
        arguments: further ones of the constructor.
        repository: on the hub or a folder, with the weights; empty if timm has to find them.
        classes: their names, or empty.
        label_set: its name, or empty.
    """

    architecture: str
    config: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    repository: str = ""
    classes: tuple[str, ...] = ()
    label_set: str = ""

    def describe(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of a ``ModelSpec``."""
        config = self.config
        known = {
            "input_shape": config.get("input_size"),
            "mean": config.get("mean"),
            "std": config.get("std"),
            "num_classes": config.get("num_classes"),
            "license": config.get("license"),
            "classes": self.classes,
            "label_set": self.label_set,
        }
        shape = given_shape(given)
        if shape is not None and config.get("input_size") is not None:
            # Networks take images of their own kind, unless the caller says otherwise.
            known["input_shape"] = (config["input_size"][0], *shape[1:])
        return {key: value for key, value in known.items() if value is not None}

    def build(self, spec: ModelSpec) -> nn.Module:
        """The architecture for the classes, channels and size of a spec, with fresh weights."""
        return self._create(spec, pretrained=False)

    def load(self, spec: ModelSpec) -> nn.Module:
        """The pretrained network."""
        check_pretrained(spec, self.describe({}))
        config = dict(self.config)
        if self.repository:
            paths = hub_weights(self.repository)
            if len(paths) > 1:
                raise InputError(f"{spec.name}: timm reads no weights in {len(paths)} parts")
            config |= {"file": str(paths[0]), "custom_load": False}
        elif not any(config.get(key) for key in ("url", "file", "hf_hub_id")):
            raise InputError(
                f"{spec.name}: timm has no pretrained weights for {self.architecture}; give a "
                f"checkpoint: {spec.source}@FILE, or weights in a spec file"
            )
        return self._create(spec, pretrained=True, pretrained_cfg=config)

    def _create(self, spec: ModelSpec, **how: Any) -> nn.Module:
        import timm

        size = tuple(spec.input_shape[1:])
        if self.config.get("fixed_input_size") and size != tuple(self.config["input_size"][1:]):
            how["img_size"] = size
        try:
            model = timm.create_model(
                self.architecture,
                num_classes=spec.num_classes,
                in_chans=spec.input_shape[0],
                **self.arguments,
                **how,
            )
        except InputError:
            raise
        except Exception as error:  # of the constructor, of the download, of the checkpoint
            advice = (
                f"give a local file: {spec.source}@FILE, or weights in a spec file"
                if how["pretrained"]
                else "check num_classes and input_shape"
            )
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise InputError(
                f"{spec.name}: timm cannot make {self.architecture} for images of "
                f"{spec.input_shape} and {spec.num_classes} classes: {reason}; {advice}"
            ) from error
        assert isinstance(model, nn.Module)
        return model


class TimmSource(Source):
    """``timm:NAME``, ``timm:NAME.TAG``, ``timm:hf-hub:OWNER/NAME``."""

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return self._model(name).describe(given)

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        return self._model(name).build(spec)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        return self._model(name).load(spec)

    @staticmethod
    def _model(name: str) -> TimmModel:
        timm = require("timm", f"timm:{name}", _INSTALL)
        if name.startswith(_HUB):
            repository = name[len(_HUB[0]) :]
            return repository_model(repository, hub_json(repository, "config.json"))
        architecture, _, tag = name.partition(".")
        if not timm.is_model(architecture):
            near = difflib.get_close_matches(architecture, timm.list_models(), 4, 0.5)
            raise InputError(
                f"timm {timm.__version__} has no model {name!r}; near: {', '.join(near) or 'none'}"
            )
        try:
            found = timm.get_pretrained_cfg(name, allow_unregistered=True)
        except RuntimeError as error:
            raise InputError(f"timm:{name} is not known to timm: {first_line(error)}") from error
        if found is None and tag:
            tags = timm.list_pretrained(f"{architecture}*")
            near = [model for model in tags if model.startswith(f"{architecture}.")]
            raise InputError(
                f"timm knows no weights {tag!r} of {architecture}; known: {', '.join(near[:6])}"
            )
        config = {} if found is None else found.to_dict()
        of_imagenet = config.get("num_classes") == 1000 and "in1k" in str(config.get("tag"))
        return TimmModel(
            architecture=architecture,
            config=config,
            repository=_own_repository(config),
            classes=imagenet1k_names() if of_imagenet else (),
            label_set=IMAGENET1K if of_imagenet else "",
        )


def _own_repository(config: Mapping[str, Any]) -> str:
    """The repository with the weights as safetensors; timm itself finds other forms of them."""
    own = str(config.get("hf_hub_id") or "")
    return own if own.startswith("timm/") and not config.get("hf_hub_filename") else ""


def repository_model(repository: str, config: Mapping[str, Any]) -> TimmModel:
    """The model of a repository in timm's format.

    Args:
        repository: on the hub or a folder.
        config: its ``config.json``.

    Raises:
        InputError: if timm is absent, or that is none of its models.
    """
    timm = require("timm", repository, _INSTALL)
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InputError(
            f"{repository} has no config.json with an architecture of timm {timm.__version__}, got "
            f"{architecture!r}"
        )
    # Older repositories have the fields of pretrained_cfg beside the architecture.
    cfg = {**config, **config.get("pretrained_cfg", {})}
    cfg["num_classes"] = config.get("num_classes", cfg.get("num_classes"))
    names = config.get("label_names", ())
    descriptions = config.get("label_descriptions", {})
    classes = tuple(str(descriptions.get(label, label)) for label in names)
    label_set = known_label_set(classes)
    if not classes and cfg["num_classes"] == 1000 and "in1k" in str(cfg.get("tag")):
        classes, label_set = imagenet1k_names(), IMAGENET1K
    fields = ("input_size", "mean", "std", "num_classes", "license", "fixed_input_size")
    further = ("first_conv", "classifier", "interpolation", "crop_pct", "tag")
    kept = {key: cfg[key] for key in fields + further if cfg.get(key) is not None}
    arguments = {
        key: value
        for key, value in (config.get("model_args") or {}).items()
        if key not in ("num_classes", "in_chans", "img_size", "pretrained", "pretrained_cfg")
    }
    return TimmModel(architecture, kept, arguments, repository, classes, label_set)
