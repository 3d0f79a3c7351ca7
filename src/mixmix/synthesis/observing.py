"""Outputs and BatchNorm statistics of a network, computed in chunks if memory is short.

BatchNorm statistics are of the whole batch, so that gradients cannot be accumulated over chunks.
But in eval mode images are independent, and the moments of a batch follow from those of its chunks.
With checkpointing per chunk (Chen et al. 2016; ``torch.utils.checkpoint``), the gradient is the
same at the cost of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mixmix.models.member import Member
from mixmix.models.model import Model
from mixmix.models.observation import BatchNormStatistics
from mixmix.synthesis.terms.observation import MemberObservation
from mixmix.synthesis.terms.term import Term

__all__ = ["combine_statistics", "observe", "observe_member"]


@dataclass(frozen=True)
class _Observation:
    """Logits (N, own K), BatchNorm statistics, and results of ``Term.of_tokens``, by kind."""

    logits: Tensor
    statistics: tuple[BatchNormStatistics, ...]
    of_tokens: dict[str, Tensor]

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors that depend on the images."""
        moments = [value for each in self.statistics for value in (each.mean, each.var)]
        return (self.logits, *moments, *self.of_tokens.values())

    def with_tensors(self, tensors: Sequence[Tensor]) -> _Observation:
        """Copy with other tensors, in the order of ``tensors()``."""
        count = 2 * len(self.statistics)
        moments = zip(tensors[1 : 1 + count : 2], tensors[2 : 1 + count : 2], strict=True)
        statistics = tuple(
            BatchNormStatistics(mean, var, each.running_mean, each.running_var)
            for (mean, var), each in zip(moments, self.statistics, strict=True)
        )
        rest = dict(zip(self.of_tokens, tensors[1 + count :], strict=True))
        return _Observation(tensors[0], statistics, rest)


def observe_member(
    member: Member,
    images: Tensor,
    terms: Sequence[Term],
    *,
    weight: float = 1.0,
    chunk_size: int | None = None,
    precision: str = "float32",
    scale: float = 1.0,
) -> MemberObservation:
    """Observe a batch by a network of a zoo, as input of the terms; see ``observe``."""
    seen = observe(
        member.model, images, terms, chunk_size=chunk_size, precision=precision, scale=scale
    )
    logits = None if member.labels is None else member.logits_of_zoo(seen.logits)
    return MemberObservation(member, weight, logits, seen.statistics, seen.of_tokens)


def observe(
    model: Model,
    images: Tensor,
    terms: Sequence[Term] = (),
    *,
    chunk_size: int | None = None,
    precision: str = "float32",
    scale: float = 1.0,
) -> _Observation:
    """Observe a batch, differentiably with respect to the images; see ``Model.observe``.

    Args:
        terms: ``of_tokens`` of those with ``needs_tokens`` is evaluated.
        chunk_size: images per forward pass; None: all, without checkpointing.
    """
    token_terms = [term for term in terms if term.needs_tokens]

    def forward(chunk: Tensor) -> _Observation:
        seen = model.observe(chunk, precision=precision, scale=scale, tokens=bool(token_terms))
        of_tokens = {term.kind: term.of_tokens(seen.tokens) for term in token_terms if seen.tokens}
        return _Observation(seen.logits, seen.statistics, of_tokens)

    if chunk_size is None or chunk_size >= len(images):
        return forward(images)
    first: list[_Observation] = []

    def forward_tensors(chunk: Tensor) -> tuple[Tensor, ...]:
        seen = forward(chunk)
        if not first:
            first.append(seen)
        return seen.tensors()

    chunks = images.split(chunk_size)
    outputs = [
        checkpoint(forward_tensors, chunk, use_reentrant=True, preserve_rng_state=False)
        for chunk in chunks
    ]
    found = [first[0].with_tensors(output) for output in outputs]
    return _Observation(
        torch.cat([each.logits for each in found]),
        combine_statistics([each.statistics for each in found], [len(chunk) for chunk in chunks]),
        {kind: torch.cat([each.of_tokens[kind] for each in found]) for kind in found[0].of_tokens},
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
