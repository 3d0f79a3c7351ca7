"""Outputs and BatchNorm statistics of a network, computed in chunks if memory is short.

BatchNorm statistics are of the whole batch, so that gradients cannot be accumulated over chunks.
But in eval mode images are independent, and the moments of a batch follow from those of its chunks.
With checkpointing per chunk (Chen et al. 2016; ``torch.utils.checkpoint``), the gradient is the
same at the cost of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixmix.models.member import Member
from mixmix.models.model import Model
from mixmix.models.observation import BatchNormStatistics, Observation
from mixmix.synthesis.terms.observation import MemberObservation

__all__ = ["combine_statistics", "observe", "observe_member"]


def observe_member(
    member: Member,
    images: Tensor,
    *,
    weight: float = 1.0,
    chunk_size: int | None = None,
    precision: str = "float32",
    scale: float = 1.0,
) -> MemberObservation:
    """Observe a batch by a network of a zoo, as input of the terms; see ``observe``."""
    seen = observe(member.model, images, chunk_size=chunk_size, precision=precision, scale=scale)
    logits = None if member.labels is None else member.logits_of_zoo(seen.logits)
    return MemberObservation(member, weight, logits, seen.statistics)


def observe(
    model: Model,
    images: Tensor,
    *,
    chunk_size: int | None = None,
    precision: str = "float32",
    scale: float = 1.0,
) -> Observation:
    """Observe a batch, differentiably with respect to the images; see ``Model.observe``.

    Args:
        chunk_size: images per forward pass; None: all, without checkpointing.
    """
    if chunk_size is None or chunk_size >= len(images):
        return model.observe(images, precision=precision, scale=scale)
    stored: list[tuple[Tensor, Tensor]] = []

    def forward(chunk: Tensor) -> tuple[Tensor, ...]:
        """Logits, then mean and variance of each layer."""
        seen = model.observe(chunk, precision=precision, scale=scale)
        stored[:] = [(each.running_mean, each.running_var) for each in seen.statistics]
        return (seen.logits, *(moment for each in seen.statistics for moment in each[:2]))

    chunks = images.split(chunk_size)
    outputs = [
        checkpoint(forward, chunk, use_reentrant=True, preserve_rng_state=False) for chunk in chunks
    ]
    statistics = [
        [
            BatchNormStatistics(mean, var, *running)
            for mean, var, running in zip(moments[::2], moments[1::2], stored, strict=True)
        ]
        for _, *moments in outputs
    ]
    return Observation(
        torch.cat([logits for logits, *_ in outputs]),
        combine_statistics(statistics, [len(chunk) for chunk in chunks]),
    )


def combine_statistics(
    chunks: Sequence[Sequence[BatchNormStatistics]], sizes: Sequence[int]
) -> tuple[BatchNormStatistics, ...]:
    """Combine the statistics of chunks of these sizes, per layer (Chan et al. 1979)."""
    fractions = torch.tensor(sizes, dtype=torch.float32) / sum(sizes)
    combined = []
    for layer in zip(*chunks, strict=True):
        weights = fractions.to(layer[0].mean.device)[:, None]
        means = torch.stack([chunk.mean for chunk in layer])
        mean = (weights * means).sum(0)
        within = (weights * torch.stack([chunk.var for chunk in layer])).sum(0)
        var = within + (weights * (means - mean).square()).sum(0)
        combined.append(BatchNormStatistics(mean, var, layer[0].running_mean, layer[0].running_var))
    return tuple(combined)
