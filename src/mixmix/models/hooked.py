"""Observing a network by hooks, on any module and device."""

from __future__ import annotations

import copy
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from mixmix.graph.batch_norm import has_statistics
from mixmix.models.moments import channel_moments
from mixmix.models.observation import BatchNormStatistics, Observation

__all__ = ["HookedNetwork"]


# What the hooks of the current thread record.
_SEEN: ContextVar[list[BatchNormStatistics]] = ContextVar("seen")


class HookedNetwork:
    """A network with a hook before every BatchNorm layer.

    Args:
        model: in eval mode; the hooks are on a copy that shares its tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
        for module in self._model.modules():
            if has_statistics(module):
                module.register_forward_pre_hook(_record)

    def observe(self, inputs: Tensor) -> Observation:
        """Observe normalized images (N, C, H, W), differentiably, in any thread."""
        seen: list[BatchNormStatistics] = []
        token = _SEEN.set(seen)
        try:
            logits = self._model(inputs)
        finally:
            _SEEN.reset(token)
        return Observation(_at_least_single(logits), tuple(seen))


def _record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    running_mean, running_var = module.running_mean, module.running_var
    assert isinstance(running_mean, Tensor) and isinstance(running_var, Tensor)
    mean, var = channel_moments(_at_least_single(inputs[0]))
    _SEEN.get().append(BatchNormStatistics(mean, var, running_mean, running_var))


def _at_least_single(values: Tensor) -> Tensor:
    """Convert half precision, which is too coarse for sums and losses."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
