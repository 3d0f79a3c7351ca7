"""Plain copies of modules, without wrappers for training or speed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.optim.swa_utils import AveragedModel

from mixmix.errors import InputError, raise_if_out_of_memory, translate_errors
from mixmix.graph.copies import detached_copy, tensors_in

__all__ = ["check_finite", "check_materialized", "drop_observing_hooks_", "plain_copy", "unwrapped"]

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


def check_finite(model: nn.Module, name: str) -> None:
    """Raise an ``InputError`` if weights or statistics are NaN or infinite; masks may have -inf."""
    masks = {key for key, _ in model.named_buffers() if "running_" not in key}
    for key, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        damaged = tensor.isnan() if key in masks else ~tensor.isfinite()
        if bool(damaged.any()):
            raise InputError(
                f"{name}: {key} contains NaN or infinite values; the checkpoint is damaged or the "
                "training diverged"
            )


@torch.no_grad()
def plain_copy(model: nn.Module, name: str) -> nn.Module:
    """Copy a module; what computes its weights, such as ``weight_norm``, becomes weights.

    These are also ``spectral_norm``, masks of ``torch.nn.utils.prune``, and parametrizations.

    Args:
        model: from ``unwrapped``; it is not changed.
        name: for error messages.

    Raises:
        InputError: if it is a TorchScript module, whose layers cannot be changed, or it cannot be
            copied.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"{name} is a TorchScript module, expected an ordinary one; pass the module it was "
            "made from, or export it to ONNX and pass the path of that file"
        )
    check_materialized(model, name)
    with translate_errors(f"{name} cannot be copied", "remove what is not part of the network"):
        copied = detached_copy(model).eval()
    for module in list(copied.modules()):
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
        for child_name, child in module.named_children():
            setattr(module, child_name, unwrapped(child))
        # Of several hooks, those that were added last change what the others read.
        for hook in reversed(list(module._forward_pre_hooks.values())):
            _apply_weight_hook_(module, hook)
        if parametrize.is_parametrized(module):
            _fix_(module)
    return copied


def _apply_weight_hook_(module: nn.Module, hook: Any) -> None:
    """Remove a hook that computes a weight before each call, and keep the weight."""
    if isinstance(hook, WeightNorm):
        nn.utils.remove_weight_norm(module, hook.name)
    elif isinstance(hook, SpectralNorm):
        nn.utils.remove_spectral_norm(module, hook.name)
        # PyTorch leaves hooks that read the removed tensors.
        module._load_state_dict_pre_hooks.clear()
        module._state_dict_hooks.clear()
    elif isinstance(hook, prune.BasePruningMethod):
        prune.remove(module, hook._tensor_name)


def _fix_(module: nn.Module) -> None:
    """Replace the parametrizations of a module by their values, in place.

    ``remove_parametrizations`` would also change the class of the caller's module.
    """
    parametrized = module.parametrizations
    assert isinstance(parametrized, nn.ModuleDict)
    values = {name: getattr(module, name) for name in parametrized}
    trained = {
        name for name, part in parametrized.items() if next(part.parameters(), None) is not None
    }
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        if name in trained:
            module.register_parameter(name, nn.Parameter(value.detach().clone()))
        else:
            module.register_buffer(name, value.detach().clone())


@torch.no_grad()
def drop_observing_hooks_(model: nn.Module, inputs: Tensor, others: Tensor) -> None:
    """Remove forward hooks that change nothing, such as those that record features, in place.

    Args:
        model: in eval mode.
        inputs: for the network.
        others: other inputs.
    """
    own = [d for m in model.modules() for d in (m._forward_pre_hooks, m._forward_hooks) if d]
    before = [(hooks, dict(hooks)) for hooks in own]
    if not before:
        return
    wanted = model(inputs.clone())
    changing: set[int] = set()

    def watched(hook: Any) -> Any:
        def run(module: nn.Module, *args: Any) -> Any:
            versions = [(tensor, tensor._version) for tensor in tensors_in(args)]
            result = hook(module, *args)
            if (result is not None and not any(result is each for each in args)) or any(
                tensor._version != version for tensor, version in versions
            ):
                changing.add(id(hook))
            return result

        return run

    for hooks, known in before:
        hooks.update({key: watched(hook) for key, hook in known.items()})
    # Other inputs than the last ones: a hook may store what the network reads later.
    model(others.clone())
    for hooks, known in before:
        hooks.clear()
        hooks.update({key: hook for key, hook in known.items() if id(hook) in changing})
    try:
        same = torch.equal(model(inputs.clone()), wanted)
    except Exception as error:  # of the network's own code
        raise_if_out_of_memory(error)
        same = False
    if not same:
        for hooks, known in before:
            hooks.clear()
            hooks.update(known)
