"""BatchNorm by any name: what it is recognized by, and its standard form."""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from mixmix.errors import InputError, raise_if_out_of_memory, warn
from mixmix.graph.agreement import output_error

__all__ = [
    "BatchNorm",
    "check_statistics",
    "has_statistics",
    "is_batch_norm",
    "standardize_batch_norms_",
]

BatchNorm = _BatchNorm
_BY_DIMENSION = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
# Frozen layers of detection toolboxes have it in their code: DETR's, and others that have none.
_EPS = (1e-5, 1e-3, 0.0)
_TOLERANCE = 1e-4


def is_batch_norm(module: object) -> TypeGuard[_BatchNorm]:
    """Whether a module is a BatchNorm layer of PyTorch with running statistics.

    Networks in a ``Model`` have no frozen or synchronized layers any more; see
    ``standardize_batch_norms_``.
    """
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def has_statistics(module: nn.Module) -> bool:
    """Whether a module normalizes by running statistics, as BatchNorm of any name does."""
    mean, var = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return (
        isinstance(mean, Tensor)
        and isinstance(var, Tensor)
        and mean.ndim == 1
        and mean.shape == var.shape
        and not isinstance(module, _InstanceNorm)
    )


def check_statistics(model: nn.Module, owner: str) -> None:
    """Check that running statistics are those of a trained network.

    Warns if variances are 0, or statistics are those before training.

    Args:
        model: any network.
        owner: its name, for messages.

    Raises:
        InputError: if a variance is negative.
    """
    layers = {name: each for name, each in model.named_modules() if has_statistics(each)}
    untrained, constant = [], []
    for name, layer in layers.items():
        mean, var = layer.running_mean, layer.running_var
        assert isinstance(mean, Tensor) and isinstance(var, Tensor)
        if bool((var < 0).any()):
            raise InputError(
                f"{owner}: running variances of {name} are as low as {float(var.min()):.3g}, "
                "expected numbers >= 0; the checkpoint is damaged"
            )
        constant += [name] if bool((var == 0).any()) else []
        if bool((mean == 0).all() and (var == 1).all()):
            untrained.append(name)
    if constant:
        others = f" and {len(constant) - 1} other BatchNorm layers" if constant[1:] else ""
        warn(
            f"{owner}: some running variances of {constant[0]}{others} are 0: their channels were "
            "constant in training, or are not loaded; check the checkpoint"
        )
    if layers and len(untrained) == len(layers):
        warn(
            f"{owner}: all BatchNorm layers have mean 0 and variance 1, as before training; load "
            "its trained weights, with their running statistics"
        )


class _Activated(nn.BatchNorm2d):
    """BatchNorm with the dropout and activation function that are its children."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        for child in self.children():
            y = child(y)
        return y


@torch.no_grad()
def standardize_batch_norms_(model: nn.Module, inputs: Tensor, *, frozen: bool = True) -> None:
    """Replace BatchNorm of other names by that of PyTorch, in place; names and values stay.

    These are ``SyncBatchNorm``, and frozen layers such as torchvision's, detectron2's and timm's,
    which are known by their tensors and replaced where outputs are equal.

    Args:
        model: in eval mode.
        inputs: normalized images, which the model is run on if it has such a layer.
        frozen: whether to replace frozen layers, too.
    """
    others = {
        name: module
        for name, module in model.named_modules()
        if _is_synchronized(module)
        or (frozen and has_statistics(module) and not isinstance(module, _BatchNorm))
    }
    if not others:
        return
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor):
            seen[module] = args[0].detach().clone()

    handles = [module.register_forward_pre_hook(keep) for module in others.values()]
    try:
        model(inputs)
    except Exception as error:  # whoever runs the model next reports it
        raise_if_out_of_memory(error)
        return
    finally:
        for handle in handles:
            handle.remove()
    for name, module in others.items():
        if module in seen and seen[module].ndim in _BY_DIMENSION and name:
            standard = _standard(module, seen[module])
            if standard is not None:
                model.set_submodule(name, standard)


def _is_synchronized(module: nn.Module) -> bool:
    has_own_code = type(module).forward is not nn.SyncBatchNorm.forward
    return isinstance(module, nn.SyncBatchNorm) and not has_own_code


def _standard(module: nn.Module, x: Tensor) -> nn.Module | None:
    """The layer of PyTorch with the closest outputs, or None if they differ."""
    expected = module(x.clone())
    eps = getattr(module, "eps", None)
    own = [eps] if isinstance(eps, float) else []
    best: tuple[float, nn.Module | None] = (_TOLERANCE, None)
    for value in (*own, *_EPS):
        candidate = _with_eps(module, x.ndim, value)
        found = candidate(x.clone())
        error = output_error(found, expected)
        if error < best[0]:
            best = (error, candidate)
    return best[1]


def _with_eps(module: nn.Module, dimensions: int, eps: float) -> nn.Module:
    """A layer of PyTorch with the tensors and children of another."""
    mean = module.running_mean
    assert isinstance(mean, Tensor)
    weight = getattr(module, "weight", None)
    children = dict(module.named_children())
    kind = _Activated if children and dimensions == 4 else _BY_DIMENSION[dimensions]
    momentum = getattr(module, "momentum", 0.1)
    layer = kind(len(mean), eps=eps, momentum=momentum, affine=weight is not None)
    layer = layer.to(mean.device, mean.dtype)
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        value = getattr(module, name, None)
        if isinstance(value, Tensor):
            tensor.copy_(value)
    for name, child in children.items():
        layer.add_module(name, child)
    for parameter in layer.parameters():
        parameter.requires_grad_(isinstance(weight, nn.Parameter) and weight.requires_grad)
    return layer.train(module.training)
