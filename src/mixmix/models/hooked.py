"""Observing a network by hooks, on any module and device."""

from __future__ import annotations

import copy
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mixmix.graph.batch_norm import has_statistics
from mixmix.models.moments import channel_moments
from mixmix.models.observation import BatchNormStatistics, Observation

__all__ = ["HookedNetwork"]


@dataclass
class _Seen:
    statistics: list[BatchNormStatistics] = field(default_factory=list)
    tokens: list[Tensor] | None = None


# What the hooks of the current thread record.
_SEEN: ContextVar[_Seen] = ContextVar("seen")


class HookedNetwork:
    """A network with a hook before every BatchNorm and every LayerNorm layer.

    Args:
        model: in eval mode; the hooks are on a copy that shares its tensors.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
        for module in self._model.modules():
            if has_statistics(module):
                module.register_forward_pre_hook(_record)
            elif isinstance(module, nn.LayerNorm):
                module.register_forward_pre_hook(_record_tokens)

    def observe(self, inputs: Tensor, *, tokens: bool = False) -> Observation:
        """Observe normalized images (N, C, H, W), differentiably, in any thread."""
        seen = _Seen(tokens=[] if tokens else None)
        token = _SEEN.set(seen)
        try:
            logits = self._model(inputs)
        finally:
            _SEEN.reset(token)
        return Observation(
            _at_least_single(logits), tuple(seen.statistics), tuple(seen.tokens or ())
        )


def _record_tokens(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    tokens = _SEEN.get().tokens
    if tokens is None:
        return
    assert isinstance(module, nn.LayerNorm)
    values = _at_least_single(inputs[0])
    # Subclasses for (N, C, H, W) normalize the second dimension.
    if values.ndim == 4 and values.shape[-1] != module.normalized_shape[-1]:
        values = values.movedim(1, -1)
    if values.ndim >= 3:
        tokens.append(values.flatten(1, -2))


def _record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    running_mean, running_var = module.running_mean, module.running_var
    assert isinstance(running_mean, Tensor) and isinstance(running_var, Tensor)
    mean, var = channel_moments(_at_least_single(inputs[0]))
    _SEEN.get().statistics.append(BatchNormStatistics(mean, var, running_mean, running_var))


def _at_least_single(values: Tensor) -> Tensor:
    """Convert half precision, which is too coarse for sums and losses."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
