"""The entropy of patch similarities, for vision transformers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.models.zoo import Zoo
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation
from mixmix.synthesis.terms.term import MemberTerm

__all__ = ["PatchEntropy", "patch_entropy"]

_TINY = 1e-12
# Points at which the density of cosines is evaluated, its bandwidth, and tokens compared.
_COSINES, _BANDWIDTH, _TOKENS = 64, 0.05, 32


@dataclass(frozen=True)
class PatchEntropy(MemberTerm):
    """Negative entropy of patch similarities in networks with LayerNorm; see ``patch_entropy``."""

    kind: ClassVar[str] = "patch"
    order: ClassVar[int] = 20
    needs_tokens: ClassVar[bool] = True

    def applies_to(self, zoo: Zoo) -> bool:
        return any(isinstance(m, nn.LayerNorm) for model in zoo for m in model.module.modules())

    def of_tokens(self, tokens: Sequence[Tensor]) -> Tensor:
        return patch_entropy(tokens)

    def of_member(self, seen: MemberObservation, batch: BatchObservation) -> Tensor | None:
        entropy = seen.of_tokens.get(self.kind)
        return None if entropy is None else -entropy.mean()


def patch_entropy(tokens: Sequence[Tensor]) -> Tensor:
    """Entropy of the cosine similarities between the tokens of an image.

    Differential entropy with a Gaussian kernel density (PSAQ-ViT, Li et al. 2022, eq. 4 to 8). It
    is low for noise, whose tokens are all equally similar, and high for an object in front of a
    background. At most 32 tokens, evenly spaced, are compared.

    Args:
        tokens: of each layer (N, positions, features); layers with fewer than 3 positions are
            skipped.

    Returns:
        (N,), in nats, the mean over layers.
    """
    grid = torch.linspace(-1, 1, _COSINES, device=tokens[0].device)
    entropies = []
    for values in tokens:
        if values.shape[1] < 3:
            continue
        count = min(_TOKENS, values.shape[1])
        chosen = torch.linspace(0, values.shape[1] - 1, count).round().long()
        rows = F.normalize(values[:, chosen.to(values.device)], dim=2)
        first, second = torch.triu_indices(count, count, 1, device=values.device)
        cosines = (rows @ rows.transpose(1, 2))[:, first, second]
        kernels = torch.exp(-0.5 * ((grid - cosines[:, :, None]) / _BANDWIDTH).square())
        density = kernels.mean(1) / (_BANDWIDTH * math.sqrt(2 * math.pi))
        step = 2 / (_COSINES - 1)
        entropies.append(-(density * density.clamp_min(_TINY).log()).sum(1) * step)
    if not entropies:
        return tokens[0].new_zeros(len(tokens[0]))
    return torch.stack(entropies).mean(0)
