"""The record of a network with fewer channels: what each layer had, and has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from mixmix.compress.method import LayerRecord
from mixmix.graph.channels.groups import ChannelGroup

__all__ = ["record_channels"]


def record_channels(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[ChannelGroup],
    reasons: Mapping[str, str],
) -> tuple[LayerRecord, ...]:
    """A record of every layer with parameters, then of layers that were not there before.

    Args:
        original: the caller's model.
        pruned: the same with fewer channels.
        groups: of channels that could be removed.
        reasons: why those of other layers could not.
    """
    before: dict[str, nn.Module] = dict(original.named_modules())
    after: dict[str, nn.Module] = dict(pruned.named_modules())
    free = {part.layer for group in groups for part in group.parts}
    records = []
    for name, module in before.items():
        count = sum(p.numel() for p in module.parameters(recurse=False))
        if not count:
            continue
        left = after.get(name, module)
        old, new = _channels(module), _channels(left)
        changed = old != new or count != sum(p.numel() for p in left.parameters(recurse=False))
        reason = ""
        if not changed:
            reason = reasons.get(name) or (
                "all of its channels were kept" if name in free else "none of its channels can go"
            )
        records.append(
            LayerRecord(
                name,
                type(module).__name__,
                "pruned" if changed else "skipped",
                reason,
                num_parameters=count,
                in_channels=None if old is None or new is None else (old[0], new[0]),
                out_channels=None if old is None or new is None else (old[1], new[1]),
            )
        )
    for name, module in after.items():
        if name not in before and next(module.parameters(recurse=False), None) is not None:
            reason = "pads channels with zeros, as the code did that is no layer"
            records.append(LayerRecord(name, type(module).__name__, "added", reason))
    return tuple(records)


def _channels(module: nn.Module) -> tuple[int, int] | None:
    """Input and output channels (or features), or None where they are not known."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, _ConvNd):
        return module.in_channels, module.out_channels
    if isinstance(module, _BatchNorm):
        return module.num_features, module.num_features
    return None
