"""Plain copies of modules, without wrappers for training or speed."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from mixmix.errors import InputError

__all__ = ["check_materialized", "plain_copy", "unwrapped"]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside data parallelism, averaging of weights, and ``torch.compile``."""
    while True:
        if isinstance(model, _WRAPPERS):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def check_materialized(model: nn.Module, name: str) -> None:
    """Raise an ``InputError`` if weights have no values yet: on the meta device, or lazy."""
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        lazy = nn.parameter.is_lazy(tensor)
        if lazy or tensor.is_meta:
            where = "lazy and has not run yet" if lazy else "on the meta device"
            cure = "run it once on images" if lazy else "create it on a device (to_empty)"
            raise InputError(
                f"{name}: its weights were never loaded: {key} is {where}; {cure} and load its "
                "state dict first"
            )


@torch.no_grad()
def plain_copy(model: nn.Module, name: str) -> nn.Module:
    """Copy a module; ``weight_norm``, ``spectral_norm`` and parametrizations become weights.

    Args:
        model: from ``unwrapped``; it is not changed.
        name: for error messages.

    Raises:
        InputError: if it is a TorchScript module, whose layers cannot be changed.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{name} is a TorchScript module, expected an ordinary one; pass the module it was "
            "made from, or export it to ONNX and pass the path of that file"
        )
    check_materialized(model, name)
    for module in model.modules():
        for hook in _norms_by_hook(module):
            # Tensors with a gradient history cannot be copied: compute the weight without one.
            weight = (
                hook.compute_weight(module)
                if isinstance(hook, WeightNorm)
                else hook.compute_weight(module, do_power_iteration=False)
            )
            setattr(module, hook.name, weight.detach())
    copied = copy.deepcopy(model).eval()
    for module in list(copied.modules()):
        for hook in _norms_by_hook(module):
            if isinstance(hook, WeightNorm):
                nn.utils.remove_weight_norm(module, hook.name)
            else:
                nn.utils.remove_spectral_norm(module, hook.name)
                # PyTorch leaves hooks that read the removed tensors.
                module._load_state_dict_pre_hooks.clear()
                module._state_dict_hooks.clear()
        if parametrize.is_parametrized(module):
            _fix_(module)
    return copied


def _fix_(module: nn.Module) -> None:
    """Replace the parametrizations of a module by their values, in place.

    ``remove_parametrizations`` would also change the class of the caller's module.
    """
    parametrized = module.parametrizations
    assert isinstance(parametrized, nn.ModuleDict)
    values = {name: getattr(module, name) for name in parametrized}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value.detach().clone()))


def _norms_by_hook(module: nn.Module) -> list[WeightNorm | SpectralNorm]:
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, WeightNorm | SpectralNorm)]
