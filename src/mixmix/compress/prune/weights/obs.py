"""Second-order pruning of a layer: the remaining weights compensate for the pruned ones.

Frantar & Alistarh 2023, SparseGPT (algorithm 1), which processes the columns once for all rows and
so needs one inverse; the criterion is that of OBS (Hassibi & Stork 1993), as in OBC (Frantar &
Alistarh 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixmix.graph.masks import Pattern, keep_largest, keep_n_of_m

__all__ = ["prune_rows"]

# Columns whose mask is chosen together, after the weights of earlier columns were updated.
_BLOCK = 128
# Relative to the mean diagonal of the Hessian, as in SparseGPT.
_DAMPING = 1e-2


@torch.no_grad()
def prune_rows(
    weight: Tensor,
    gram: Tensor,
    *,
    sparsity: float,
    pattern: Pattern,
    damping: float = _DAMPING,
    already_pruned: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose a mask, and adapt the remaining weights for the least squared error of the outputs.

    Args:
        weight: (rows, d).
        gram: (d, d) mean of ``x x^T`` over the layer's inputs; half of the Hessian of a row.
        sparsity: fraction of zeros, unless the pattern has groups.
        pattern: positions that zeros may have.
        damping: added to the diagonal of the Hessian, relative to its mean.
        already_pruned: (rows, d) bool, weights that stay pruned.

    Returns:
        The weights (rows, d), and the mask (rows, d), False where they are pruned.
    """
    rows, width = weight.shape
    device, dtype = weight.device, weight.dtype
    # The inverse needs double precision, which not every device has.
    weight, gram = weight.double().cpu(), gram.double().cpu()
    full_mask = torch.zeros(rows, width, dtype=torch.bool)
    pruned = torch.zeros_like(full_mask) if already_pruned is None else already_pruned.cpu()
    inverse = _inverse_factor(gram, damping)
    block = _BLOCK if not pattern.is_grouped else -(-_BLOCK // pattern.m) * pattern.m
    for start in range(0, width, block):
        end = min(start + block, width)
        part, factor = weight[:, start:end].clone(), inverse[start:end, start:end]
        errors = torch.zeros_like(part)
        mask = torch.zeros_like(part, dtype=torch.bool)
        if not pattern.is_grouped:
            scores = _scores(part, factor.diagonal(), pruned[:, start:end])
            mask = keep_largest(scores, round((1 - sparsity) * scores.numel()))
        for column in range(end - start):
            if pattern.is_grouped and column % pattern.m == 0:
                group = slice(column, column + pattern.m)
                scores = _scores(
                    part[:, group], factor.diagonal()[group], pruned[:, start:end][:, group]
                )
                mask[:, group] = keep_n_of_m(scores, pattern.n, pattern.m)
            values = part[:, column]
            mask[:, column] &= ~pruned[:, start + column]
            error = torch.where(mask[:, column], 0.0, values) / factor[column, column]
            part[:, column:] -= error[:, None] * factor[column, column:][None]
            errors[:, column] = error
        weight[:, start:end] = part * mask
        weight[:, end:] -= errors @ inverse[start:end, end:]
        full_mask[:, start:end] = mask
    return weight.to(dtype).to(device), full_mask.to(device)


def _inverse_factor(gram: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Hessian."""
    diagonal = gram.diagonal()
    size = diagonal.mean().clamp_min(1e-12)
    # Inputs that are always zero have no curvature: any positive value does.
    extra = torch.where(diagonal > 0, damping * size, size)
    factor = torch.linalg.cholesky(gram + extra.diag())
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    return upper


def _scores(weight: Tensor, factor: Tensor, pruned: Tensor) -> Tensor:
    scores: Tensor = (weight / factor).square().masked_fill(pruned, -1.0)
    return scores
