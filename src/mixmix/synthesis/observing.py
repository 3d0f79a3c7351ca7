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

from mixmix.models.member import Member
from mixmix.models.model import Model
from mixmix.models.observation import BatchNormStatistics
from mixmix.synthesis.terms.observation import MemberObservation
from mixmix.synthesis.terms.term import Term

__all__ = ["joined_statistics", "observe_in_parts", "observe_member"]


@dataclass(frozen=True)
class _Observation:
    """Logits (N, own K), BatchNorm statistics, and what terms took of the tokens, by kind."""

    logits: Tensor
    statistics: tuple[BatchNormStatistics, ...]
    of_tokens: dict[str, Tensor]

    def tensors(self) -> tuple[Tensor, ...]:
        """All that depends on the images."""
        moments = [value for each in self.statistics for value in (each.mean, each.var)]
        return (self.logits, *moments, *self.of_tokens.values())

    def with_tensors(self, tensors: Sequence[Tensor]) -> _Observation:
        """The same with other tensors, in the order of ``tensors``."""
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
    part: int | None = None,
    precision: str = "float32",
    scale: float = 1.0,
) -> MemberObservation:
    """What a network of a zoo sees in a batch, as terms take it; see ``observe_in_parts``."""
    seen = observe_in_parts(
        member.model, images, terms, part=part, precision=precision, scale=scale
    )
    logits = None if member.labels is None else member.logits_of_zoo(seen.logits)
    return MemberObservation(member, weight, logits, seen.statistics, seen.of_tokens)


def observe_in_parts(
    model: Model,
    images: Tensor,
    terms: Sequence[Term] = (),
    *,
    part: int | None = None,
    precision: str = "float32",
    scale: float = 1.0,
) -> _Observation:
    """Observe a batch, differentiable by the images.

    Args:
        model: the network.
        images: (N, C, H, W) in [0, 1].
        terms: those with ``needs_tokens`` are asked what they take of the tokens.
        part: images that pass at a time; None takes all at once and passes them once.
        precision: see ``Model.observe``, and ``scale`` likewise.
    """
    takers = [term for term in terms if term.needs_tokens]

    def see(some: Tensor) -> _Observation:
        seen = model.observe(some, precision=precision, scale=scale, tokens=bool(takers))
        taken = {term.kind: term.of_tokens(seen.tokens) for term in takers if seen.tokens}
        return _Observation(seen.logits, seen.statistics, taken)

    if part is None or part >= len(images):
        return see(images)
    first: list[_Observation] = []

    def flat(some: Tensor) -> tuple[Tensor, ...]:
        seen = see(some)
        if not first:
            first.append(seen)
        return seen.tensors()

    parts = images.split(part)
    outputs = [
        checkpoint(flat, some, use_reentrant=True, preserve_rng_state=False) for some in parts
    ]
    found = [first[0].with_tensors(output) for output in outputs]
    return _Observation(
        torch.cat([each.logits for each in found]),
        joined_statistics([each.statistics for each in found], [len(some) for some in parts]),
        {kind: torch.cat([each.of_tokens[kind] for each in found]) for kind in found[0].of_tokens},
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
