"""Models of Hugging Face repositories: timm's, and image classifiers of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mixmix.errors import InputError, translate_errors
from mixmix.models.sources.hub import hub_json, hub_weights
from mixmix.models.sources.label_sets import known_label_set
from mixmix.models.sources.source import Source, check_pretrained, require
from mixmix.models.sources.timm_models import TimmModel, repository_model
from mixmix.models.spec import ModelSpec
from mixmix.runtime.quiet import quiet

__all__ = ["HuggingFaceSource", "LogitsOnly"]


class LogitsOnly(nn.Module):
    """A classifier of transformers that maps normalized images (N, C, H, W) to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


class HuggingFaceSource(Source):
    """``hf:OWNER/NAME``, ``hf:OWNER/NAME@REVISION``, ``hf:FOLDER``."""

    def describe(self, name: str) -> dict[str, Any]:
        model = _find_model(name)
        known = model.describe() if isinstance(model, TimmModel) else _describe(name, model)
        return ({"name": Path(name).resolve().name} if name and Path(name).is_dir() else {}) | known

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        model = _find_model(name)
        if isinstance(model, TimmModel):
            return model.build(spec)
        transformers = _transformers(spec)
        config = {k: v for k, v in model.items() if k not in ("id2label", "label2id")}
        config |= {"num_channels": spec.input_shape[0], "num_labels": max(spec.num_classes, 1)}
        with _explained(spec):
            network = transformers.AutoModelForImageClassification.from_config(
                transformers.AutoConfig.for_model(**config)
            )
        return LogitsOnly(network)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        model = _find_model(name)
        if isinstance(model, TimmModel):
            return model.load(spec)
        channels = model.get("num_channels") or 3
        check_pretrained(spec, _labels(model) | {"input_shape": (channels,)})
        transformers = _transformers(spec)
        folder = hub_weights(name)[0].parent
        with _explained(spec), quiet():
            network, notes = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if notes["missing_keys"] and spec.num_classes:
            missing = ", ".join(sorted(notes["missing_keys"])[:4])
            raise InputError(
                f"{spec.name}: {name} has no weights for {missing}, so it is not an image "
                "classifier; set num_classes = 0 to use it as a backbone"
            )
        return LogitsOnly(network)

    def core(self, model: nn.Module) -> nn.Module:
        return model.network if isinstance(model, LogitsOnly) else model


def _find_model(name: str) -> TimmModel | dict[str, Any]:
    """A model of timm, or the configuration of a model of transformers."""
    config = hub_json(name, "config.json")
    if not config:
        raise InputError(f"hf:{name} has no config.json, which describes the network")
    return repository_model(name, config) if "architecture" in config else config


def _transformers(spec: ModelSpec) -> Any:
    return require("transformers", spec.source, "'mixmix[hf]'")


def _explained(spec: ModelSpec) -> Any:
    return translate_errors(
        f"{spec.name}: transformers cannot build an image classifier from {spec.source}"
    )


def _labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """Number and names of the classes, as far as the configuration has them."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return {"num_classes": config["num_labels"]} if "num_labels" in config else {}
    names = [str(labels.get(str(index), "")) for index in range(len(labels))]
    if not all(names) or names[:1] == ["LABEL_0"]:
        names = []
    return {
        "num_classes": len(labels),
        "classes": tuple(names),
        "label_set": known_label_set(names),
    }


def _describe(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    processor = hub_json(name, "preprocessor_config.json", required=False)
    said = config.get("num_channels")
    channels = said if isinstance(said, int) and _is_size(said) else 3
    known = _labels(config) | _normalization(processor, channels)
    size = _size(processor) or _size({"size": config.get("image_size")})
    if config.get("problem_type") == "multi_label_classification":
        known["multi_label"] = True
    if size is not None:
        known["input_shape"] = (channels, *size)
    return known


def _normalization(processor: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Mean and std for pixels in [0, 1]; empty if the processor does anything else."""
    factor = processor.get("rescale_factor", 1 / 255)
    is_unit = isinstance(factor, int | float) and abs(factor * 255 - 1) < 1e-3
    if not (processor.get("do_rescale", True) and is_unit):
        return {}
    if processor.get("rescale_offset") or processor.get("include_top"):
        return {}
    if processor.get("do_normalize") is False:
        return {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    known = {key: _by_channel(processor.get(f"image_{key}"), channels) for key in ("mean", "std")}
    return {key: value for key, value in known.items() if value is not None}


def _by_channel(value: Any, channels: int) -> tuple[float, ...] | None:
    """Numbers of a processor, one for each channel; None if it has none."""
    values = value if isinstance(value, list) else [value]
    if not values or not all(_is_number(each) for each in values):
        return None
    return tuple(float(each) for each in values) * (channels if len(values) == 1 else 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) after the processor's crop, or else after its resizing."""
    crops = processor.get("do_center_crop") is not False and processor.get("crop_size")
    size = crops or processor.get("size")
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge", size.get("longest_edge"))
        size = (size.get("height", edge), size.get("width", edge))
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return (sides[0], sides[1]) if len(sides) == 2 and all(map(_is_size, sides)) else None
