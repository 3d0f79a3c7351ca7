"""Models of Hugging Face repositories: timm's, and image classifiers of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mixmix.errors import InputError, first_line
from mixmix.models.sources.hub import hub_json, hub_weights
from mixmix.models.sources.label_sets import known_label_set
from mixmix.models.sources.source import (
    Source,
    check_pretrained,
    given_number,
    given_shape,
    require,
)
from mixmix.models.sources.timm_models import TimmModel, repository_model
from mixmix.models.spec import ModelSpec

__all__ = ["HuggingFaceSource", "LogitsOnly"]

_INSTALL = "'mixmix[hf]'"


class LogitsOnly(nn.Module):
    """A classifier of transformers as a function of normalized images (N, C, H, W) to logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=images).logits
        return logits


class HuggingFaceSource(Source):
    """``hf:OWNER/NAME``, ``hf:OWNER/NAME@REVISION``, ``hf:FOLDER``."""

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        config = _config(name)
        model = _timm_model(name, config)
        known = _describe(name, config, given) if model is None else model.describe(given)
        return ({"name": Path(name).resolve().name} if name and Path(name).is_dir() else {}) | known

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        config = _config(name)
        model = _timm_model(name, config)
        if model is not None:
            return model.build(spec)
        transformers = require("transformers", spec.source, _INSTALL)
        sizes = {"num_channels": spec.input_shape[0], "num_labels": max(spec.num_classes, 1)}
        try:
            adapted = transformers.AutoConfig.for_model(
                **{k: v for k, v in config.items() if k not in ("id2label", "label2id")} | sizes
            )
            network = transformers.AutoModelForImageClassification.from_config(adapted)
        except Exception as error:  # of the library, for a configuration that it does not know
            raise _cannot_build(spec, error) from error
        return LogitsOnly(network)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        config = _config(name)
        model = _timm_model(name, config)
        if model is not None:
            return model.load(spec)
        channels = given_number(config, "num_channels") or 3
        check_pretrained(spec, _known(config) | {"input_shape": (channels,)})
        transformers = require("transformers", spec.source, _INSTALL)
        folder = hub_weights(name)[0].parent
        try:
            with _without_bars(transformers):
                network, notes = transformers.AutoModelForImageClassification.from_pretrained(
                    folder,
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:
            raise _cannot_build(spec, error) from error
        if notes["missing_keys"] and spec.num_classes:
            absent = ", ".join(sorted(notes["missing_keys"])[:4])
            raise InputError(
                f"{spec.name}: {name} holds no weights for {absent}; it is no classifier of "
                "images: set num_classes = 0 to use it as a backbone"
            )
        return LogitsOnly(network)

    def core(self, model: nn.Module) -> nn.Module:
        return model.network if isinstance(model, LogitsOnly) else model


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Without its progress bars, since loading from a folder takes no time."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _config(name: str) -> dict[str, Any]:
    config = hub_json(name, "config.json")
    if not config:
        raise InputError(f"hf:{name} has no config.json, which says what network it is")
    return config


def _timm_model(name: str, config: Mapping[str, Any]) -> TimmModel | None:
    return repository_model(name, config) if "architecture" in config else None


def _cannot_build(spec: ModelSpec, error: Exception) -> InputError:
    return InputError(
        f"{spec.name}: transformers cannot make an image classifier of {spec.source}: "
        f"{first_line(error)}"
    )


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """Number of classes and their names, as far as the configuration has them."""
    labels = config.get("id2label")
    number = given_number(config, "num_labels")
    if isinstance(labels, Mapping):
        number = len(labels)
    if number is None:
        return {}
    names = [str(labels.get(str(index), "")) for index in range(number)] if labels else []
    if not all(names) or (names and names[0] == "LABEL_0"):
        names = []
    return {
        "num_classes": number,
        "classes": tuple(names),
        "label_set": known_label_set(names),
    }


def _describe(name: str, config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    processor = hub_json(name, "preprocessor_config.json", required=False)
    known = _known(config)
    size = _size(processor) or _size({"size": config.get("image_size")})
    shape = given_shape(given)
    if size is not None:
        height, width = size if shape is None else shape[1:]
        known["input_shape"] = (given_number(config, "num_channels") or 3, height, width)
    return known | _normalization(processor)


def _normalization(processor: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and std for pixels in [0, 1]; empty where the processor does anything else."""
    factor = processor.get("rescale_factor", 1 / 255)
    plain = processor.get("do_rescale", True) and abs(factor * 255 - 1) < 1e-3
    if not plain or processor.get("rescale_offset") or processor.get("include_top"):
        return {}
    if processor.get("do_normalize") is False:
        return {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if "image_mean" not in processor or "image_std" not in processor:
        return {}
    return {"mean": tuple(processor["image_mean"]), "std": tuple(processor["image_std"])}


def _size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) that a processor gives: what it crops, or else what it resizes to."""
    crops = processor.get("do_center_crop") is not False and processor.get("crop_size")
    size = crops or processor.get("size")
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return size[0], size[1]
    if isinstance(size, Mapping):
        if "height" in size and "width" in size:
            return size["height"], size["width"]
        if "shortest_edge" in size:
            return size["shortest_edge"], size["shortest_edge"]
    return None
