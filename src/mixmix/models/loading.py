"""Loads one network, from a reference or from the caller's module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mixmix.errors import InputError, MissingFieldsError, translate_errors
from mixmix.graph.agreement import output_error
from mixmix.models.model import Model
from mixmix.models.plain_copy import plain_copy, unwrapped
from mixmix.models.references import load_model, load_spec
from mixmix.models.spec import ModelSpec, channels_first_hint
from mixmix.runtime.devices import checked_device

__all__ = ["NO_CLASSES", "Reference", "load"]

# Fields of a spec before the logits of its network are counted.
NO_CLASSES: Mapping[str, Any] = {"num_classes": 0, "classes": (), "label_map": ()}
# Relative, between batches of 2 and 4 images.
_BATCH_TOLERANCE = 0.01

Reference = str | Path | ModelSpec | Model | nn.Module | tuple[nn.Module, ModelSpec]


def load(
    reference: Reference,
    *,
    name: str | None = None,
    input_shape: Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    label_set: str | None = None,
    label_map: Sequence[int | str] | None = None,
    multi_label: bool | None = None,
    flip: bool | None = None,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """Load one pretrained network.

    Keyword arguments complete or override the spec of the reference (see ``ModelSpec``).

    Args:
        reference: a name such as ``bundled:NAME`` or ``timm:NAME``, an ``.onnx`` or ``.pt2`` file,
            or a spec or its file (see ``load_spec``); your own module, alone or as a pair
            ``(module, ModelSpec(...))``; or a ``Model``, which is returned unchanged unless an
            argument overrides it. The module maps normalized images (N, C, H, W) to logits (N, K).
        name: in tables and records; by default the reference, or the class of the module.
        input_shape: (C, H, W) of one image; required for a module.
        mean: subtracted from images in [0, 1], per channel or for all; required for a module.
        std: then divides the images, per channel or for all; required for a module.
        num_classes: K; by default, a module is run to find it. 0 is a backbone without a head.
        classes: names of the classes.
        label_set: name of the label set.
        label_map: for each class of the zoo, the name or index of this network's class.
        multi_label: whether an image may have several classes or none (sigmoid, not softmax).
        flip: whether mirrored images keep their class; by default, predictions decide.
        weights: file of a state dict, instead of the pretrained weights.
        device: to run on; by default, a ``Model`` keeps its own, others use the CPU.

    Raises:
        InputError: if a required field is missing, the network cannot be loaded, or the device
            cannot be used.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
        >>> model = mixmix.load(net, input_shape=(3, 8, 8), mean=0.5, std=0.25, name="mine")
        >>> model.spec.name, model.spec.num_classes
        ('mine', 4)
        >>> mixmix.load("bundled:resnet").spec.num_classes
        10
    """
    if device is not None:
        device = checked_device(device)
    given = {
        "name": name,
        "input_shape": input_shape,
        "mean": mean,
        "std": std,
        "num_classes": num_classes,
        "classes": classes,
        "label_set": label_set,
        "label_map": label_map,
        "multi_label": multi_label,
        "flip": flip,
        "weights": None if weights is None else str(weights),
    }
    fields: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if weights is not None and isinstance(reference, nn.Module | Model | tuple):
        raise InputError("a module has weights already; leave out weights")
    if (
        isinstance(reference, Model)
        and device in (None, reference.device)
        and replace(reference.spec, **fields) == reference.spec
    ):
        return reference
    _refuse_images(reference)
    if isinstance(reference, nn.Module):
        module, spec = reference, _spec_of_module(reference, fields)
    elif isinstance(reference, Model | tuple):
        module, spec = _pair(reference)
        spec = replace(spec, **fields)
    else:
        module, spec = _from_source(reference, fields)
    if device is None:
        device = reference.device if isinstance(reference, Model) else "cpu"
    model = Model(module, spec, device=device)
    _check_batches(model)
    return model


def _refuse_images(reference: object) -> None:
    """Raise an ``InputError`` about images in place of a model."""
    parts = reference if isinstance(reference, tuple) else (reference,)
    if any(map(_are_images, parts)):
        raise InputError(
            f"expected a model, got images ({', '.join(type(each).__name__ for each in parts)}); "
            "the model comes first, then the images"
        )


def _are_images(part: object) -> bool:
    if isinstance(part, nn.Module):
        return False
    return isinstance(part, Tensor | Dataset | DataLoader) or hasattr(part, "images")


def _pair(reference: Model | tuple[nn.Module, ModelSpec]) -> tuple[nn.Module, ModelSpec]:
    if isinstance(reference, Model):
        return reference.module, reference.spec
    if len(reference) != 2 or not isinstance(reference[1], ModelSpec):
        raise InputError(
            "a tuple must be a pair (module, ModelSpec(...)), got "
            f"({', '.join(type(each).__name__ for each in reference)}); pass several networks as a "
            "list: Zoo.load([...])"
        )
    return reference


def _spec_of_module(module: nn.Module, fields: Mapping[str, Any]) -> ModelSpec:
    """The spec of a bare module, from the caller's fields and the number of its logits."""
    name = str(fields.get("name", type(unwrapped(module)).__name__))
    missing = [key for key in ("input_shape", "mean", "std") if key not in fields]
    if missing:
        examples = {"input_shape": "(3, 224, 224)", "mean": "...", "std": "..."}
        arguments = ", ".join(f"{key}={fields.get(key, value)}" for key, value in examples.items())
        raise InputError(
            f"{name}: a module does not specify its {', '.join(missing)}; write load(module, "
            f"{arguments}) with the values used in training"
        )
    content = {"name": name, "source": "module", **fields}
    if "num_classes" not in fields:
        content["num_classes"] = _count_logits(
            module, ModelSpec.from_dict({**content, **NO_CLASSES})
        )
    return ModelSpec.from_dict(content)


def _from_source(
    reference: str | Path | ModelSpec, fields: Mapping[str, Any]
) -> tuple[nn.Module, ModelSpec]:
    """The network of a reference; it is run to find the number of its logits if nothing says it."""
    try:
        spec = load_spec(reference, **fields)
        return load_model(spec), spec
    except MissingFieldsError as error:
        if error.missing != ("num_classes",):
            raise
    spec = load_spec(reference, **{**fields, **NO_CLASSES})
    module = load_model(spec)
    return module, load_spec(reference, **fields, num_classes=_count_logits(module, spec))


@torch.no_grad()
def _check_batches(model: Model) -> None:
    """Raise an ``InputError`` if the outputs of an image depend on the others of its batch."""
    name, draws = model.spec.name, torch.Generator().manual_seed(0)
    brightness = torch.tensor([0.1, 0.3, 0.6, 0.8]).view(4, 1, 1, 1)
    noise = torch.rand(4, *model.spec.input_shape, generator=draws)
    images = (brightness + 0.2 * noise).to(model.device)
    apart = torch.cat([model(pair) for pair in images.split(2)])
    with translate_errors(
        f"{name} runs on 2 images, but not on 4", "let its code take the batch size from its input"
    ):
        together = model(images)
        difference = output_error(together, apart)
    # What is random differs without a reason.
    if difference > _BATCH_TOLERANCE and torch.equal(together, model(images)):
        raise InputError(
            f"{name} gives an image other outputs (by {difference:.1%}) with others in its batch, "
            "as BatchNorm without running statistics does; use statistics of the training"
        )


@torch.no_grad()
def _count_logits(module: nn.Module, spec: ModelSpec) -> int:
    """K of outputs (N, K) of a copy; 0 for outputs of another form."""
    copied = plain_copy(unwrapped(module), spec.name).cpu().float()
    with translate_errors(
        f"{spec.name} cannot take images of {spec.input_shape}",
        "check input_shape" + channels_first_hint(spec.input_shape),
    ):
        outputs = copied(torch.zeros(2, *spec.input_shape))
    is_logits = isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == 2
    return outputs.shape[1] if is_logits else 0
