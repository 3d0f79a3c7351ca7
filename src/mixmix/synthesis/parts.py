"""A batch seen by a network part by part, in the memory of one part.

BatchNorm statistics are of the whole batch, so that gradients cannot simply be added up over
parts. But in eval mode each image passes a network on its own, and the moments of a batch follow
from those of its parts. So every part goes forward without its activations being kept, the loss is
computed from what came out, and every part goes forward once more when its gradient is due (Chen et
al. 2016; ``torch.utils.checkpoint``): the same gradient for the price of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixmix.models.model import Model
from mixmix.models.observation import BatchNormStatistics
from mixmix.synthesis.terms.terms import patch_entropy

__all__ = ["Seen", "joined_statistics", "observe_in_parts"]


@dataclass(frozen=True)
class Seen:
    """What the losses take of a batch.

    Attributes:
        logits: (N, K).
        statistics: of every BatchNorm layer.
        entropy: (N,) patch entropy of every image, or None if it was not asked for or there are no
            tokens.
    """

    logits: Tensor
    statistics: tuple[BatchNormStatistics, ...]
    entropy: Tensor | None


def observe_in_parts(
    teacher: Model,
    images: Tensor,
    *,
    part: int | None = None,
    precision: str = "float32",
    scale: float = 1.0,
    patches: bool = False,
) -> Seen:
    """Observe a batch, differentiable by the images.

    Args:
        teacher: the network.
        images: (N, C, H, W) in [0, 1].
        part: images that pass at a time; None takes all at once and passes them once.
        precision: see ``Model.observe``, and ``scale`` likewise.
        patches: whether to compute the entropy of patches.
    """

    def see(some: Tensor) -> Seen:
        seen = teacher.observe(some, precision=precision, scale=scale, tokens=patches)
        entropy = patch_entropy(seen.tokens) if seen.tokens else None
        return Seen(seen.logits, seen.statistics, entropy)

    if part is None or part >= len(images):
        return see(images)
    running: list[tuple[Tensor, Tensor]] = []

    def flat(some: Tensor) -> tuple[Tensor, ...]:
        seen = see(some)
        running[:] = [(each.running_mean, each.running_var) for each in seen.statistics]
        moments = [value for each in seen.statistics for value in (each.mean, each.var)]
        return (seen.logits, *moments, *([] if seen.entropy is None else [seen.entropy]))

    parts = images.split(part)
    outputs = [
        checkpoint(flat, some, use_reentrant=True, preserve_rng_state=False) for some in parts
    ]
    count = 2 * len(running)
    statistics = joined_statistics(
        [
            [
                BatchNormStatistics(output[1 + 2 * i], output[2 + 2 * i], *running[i])
                for i in range(len(running))
            ]
            for output in outputs
        ],
        [len(some) for some in parts],
    )
    return Seen(
        torch.cat([output[0] for output in outputs]),
        statistics,
        torch.cat([output[1 + count] for output in outputs])
        if len(outputs[0]) > 1 + count
        else None,
    )


def joined_statistics(
    parts: Sequence[Sequence[BatchNormStatistics]], sizes: Sequence[int]
) -> tuple[BatchNormStatistics, ...]:
    """Statistics of a batch from those of its parts (Chan et al. 1979).

    Args:
        parts: for each part, the statistics of every layer.
        sizes: images in each part.
    """
    shares = torch.tensor(sizes, dtype=torch.float32) / sum(sizes)
    joined = []
    for layer in zip(*parts, strict=True):
        weights = shares.to(layer[0].mean.device)[:, None]
        means = torch.stack([part.mean for part in layer])
        mean = (weights * means).sum(0)
        within = (weights * torch.stack([part.var for part in layer])).sum(0)
        var = within + (weights * (means - mean).square()).sum(0)
        joined.append(BatchNormStatistics(mean, var, layer[0].running_mean, layer[0].running_var))
    return tuple(joined)
