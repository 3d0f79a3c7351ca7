"""``load``: one network, from a reference to it or from the caller's own module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixmix.errors import InputError
from mixmix.models.model import Model
from mixmix.models.plain_copy import plain_copy, unwrapped
from mixmix.models.references import load_model, load_spec
from mixmix.models.spec import ModelSpec

__all__ = ["Reference", "load"]

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
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """Load one pretrained network.

    What is given beside the reference completes or overrides what that says.

    Args:
        reference: whatever ``load_spec`` takes (``bundled:NAME``, ``timm:NAME``, an ``.onnx`` or
            ``.pt2`` file, a spec or its file ...); your own module, alone or as a pair
            ``(module, ModelSpec(...))``; or a ``Model``, which is returned as it is if nothing is
            to change. The module takes normalized images (N, C, H, W) and gives logits (N, K).
        name: what tables and records call it; by default that of the source, or of the module's
            class.
        input_shape: (C, H, W) of one image. A module needs it.
        mean: subtracted from images in [0, 1], one for each channel or one for all. A module needs
            it.
        std: divided by afterwards, likewise.
        num_classes: K; a module is run to find it. 0 stands for a backbone without a label head.
        classes: names of the classes.
        label_set: name of the label set (see ``ModelSpec``).
        label_map: where its classes are in a zoo (see ``ModelSpec``).
        weights: file of a state dict, in place of the pretrained weights.
        device: where it runs; the CPU by default.

    Raises:
        InputError: saying what is missing, or why the network cannot be loaded.

    Examples:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
        >>> model = mixmix.load(net, input_shape=(3, 8, 8), mean=0.5, std=0.25, name="mine")
        >>> model.spec.name, model.spec.num_classes
        ('mine', 4)
        >>> mixmix.load("bundled:resnet").spec.num_classes
        10
    """
    given = {
        "name": name,
        "input_shape": input_shape,
        "mean": mean,
        "std": std,
        "num_classes": num_classes,
        "classes": classes,
        "label_set": label_set,
        "label_map": label_map,
        "weights": None if weights is None else str(weights),
    }
    fields: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if isinstance(reference, Model) and not fields and _is_on(reference.device, device):
        return reference
    if isinstance(reference, nn.Module):
        module, spec = reference, _spec_of_module(reference, fields)
    elif isinstance(reference, Model | tuple):
        module, spec = _pair(reference)
        if weights is not None:
            raise InputError(f"{spec.name}: a module has weights already; leave out weights")
        spec = replace(spec, **fields)
    else:
        spec = load_spec(reference, **fields)
        module = load_model(spec)
    if device is None:
        device = reference.device if isinstance(reference, Model) else "cpu"
    return Model(module, spec, device=device)


def _is_on(found: torch.device, asked: str | torch.device | None) -> bool:
    return asked is None or torch.device(asked) == found


def _pair(reference: Model | tuple[nn.Module, ModelSpec]) -> tuple[nn.Module, ModelSpec]:
    if isinstance(reference, Model):
        return reference.module, reference.spec
    if len(reference) != 2 or not isinstance(reference[1], ModelSpec):
        raise InputError(
            f"a tuple must be a pair (module, ModelSpec(...)), got {_kinds(reference)}; several "
            "networks are a list: Zoo.load([...])"
        )
    return reference


def _kinds(values: tuple[object, ...]) -> str:
    return f"({', '.join(type(value).__name__ for value in values)})"


def _spec_of_module(module: nn.Module, fields: Mapping[str, Any]) -> ModelSpec:
    """The spec of a bare module: what the caller says, and the number of its logits."""
    name = str(fields.get("name", type(unwrapped(module)).__name__))
    if "weights" in fields:
        raise InputError(f"{name}: a module has weights already; leave out weights")
    missing = [key for key in ("input_shape", "mean", "std") if key not in fields]
    if missing:
        raise InputError(
            f"{name}: a module does not say its {', '.join(missing)}; write load(module, "
            "input_shape=(3, 224, 224), mean=..., std=...) with the numbers that it was trained "
            "with"
        )
    content = {"name": name, "source": "module", **fields}
    if "num_classes" not in fields:
        plain = {"num_classes": 0, "classes": (), "label_map": ()}
        content["num_classes"] = _count_logits(module, ModelSpec.from_dict(content | plain))
    return ModelSpec.from_dict(content)


@torch.no_grad()
def _count_logits(module: nn.Module, spec: ModelSpec) -> int:
    """K of outputs (N, K), found by running a copy; 0 for outputs of another form."""
    copied = plain_copy(unwrapped(module), spec.name).cpu().float()
    try:
        outputs = copied(torch.zeros(2, *spec.input_shape))
    except Exception as error:  # whatever the caller's own module raises
        raise InputError(
            f"{spec.name} cannot take images of {spec.input_shape}: {error}; check input_shape"
        ) from error
    is_logits = isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == 2
    return outputs.shape[1] if is_logits else 0
