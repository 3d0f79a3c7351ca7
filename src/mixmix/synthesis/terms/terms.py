"""The losses of synthesis, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.models.observation import BatchNormStatistics

__all__ = [
    "agreement_loss",
    "bn_statistics_loss",
    "l2_loss",
    "mixed_cross_entropy_loss",
    "patch_entropy",
    "relative_bn_loss",
    "similarity_loss",
    "total_variation_loss",
]

_TINY = 1e-12
# Density of cosines: how many values it is evaluated at, its bandwidth, and tokens compared.
_COSINES, _BANDWIDTH, _TOKENS = 64, 0.05, 32
_SIMILARITY_SIDE = 16
# Of the mean variance of a layer, what is added to that of each channel: some hardly vary.
_VARIANCE_FLOOR, _SMALLEST_VARIANCE = 1e-2, 1e-8


def bn_statistics_loss(
    statistics: Sequence[BatchNormStatistics], *, first_multiplier: float = 1.0
) -> Tensor:
    """Distance between the BatchNorm statistics of a batch and those stored in the network.

    ``sum_l || mean_l - running_mean_l ||_2 + || var_l - running_var_l ||_2`` (DeepInversion,
    Yin et al. 2020, eq. 4; MixMix, eq. 2); the first layer counts ``first_multiplier`` times.

    Args:
        statistics: one per BatchNorm layer, in order of execution; not empty.

    Returns:
        A scalar >= 0.
    """
    losses = [
        torch.linalg.vector_norm(s.mean - s.running_mean)
        + torch.linalg.vector_norm(s.var - s.running_var)
        for s in statistics
    ]
    total: Tensor = losses[0] * first_multiplier
    return sum(losses[1:], start=total)


def relative_bn_loss(
    statistics: Sequence[BatchNormStatistics], *, first_multiplier: float = 1.0
) -> Tensor:
    """Distance between BatchNorm statistics in units of what each channel varies by.

    ``1/L sum_l rms_c((mean - running_mean) / s) + rms_c((var - running_var) / s^2)`` with ``s^2``
    the running variance. Noise is about as far from any network, however deep, wide or badly scaled
    it is, where ``bn_statistics_loss`` differs by orders of magnitude and mostly sees the layers
    whose channels vary most.

    Args:
        statistics: one per BatchNorm layer, in order of execution; not empty.
        first_multiplier: what the first layer counts.

    Returns:
        A scalar >= 0.
    """
    losses = []
    for s in statistics:
        floor = (_VARIANCE_FLOOR * s.running_var.mean()).clamp_min(_SMALLEST_VARIANCE)
        variance = s.running_var + floor
        shift = (s.mean - s.running_mean).square() / variance
        stretch = ((s.var - s.running_var) / variance).square()
        # The gradient of a norm is not defined where both are the same.
        losses.append(torch.stack([shift.mean(), stretch.mean()]).clamp_min(_TINY).sqrt().sum())
    total: Tensor = losses[0] * first_multiplier
    return sum(losses[1:], start=total) / len(losses)


def mixed_cross_entropy_loss(
    logits: Tensor, labels: Tensor, other: Tensor, share: Tensor
) -> Tensor:
    """Cross-entropy of mixed images: labels weigh as much as the area they cover (MixMix, eq. 7).

    Args:
        logits: (N, K).
        labels: (N,) classes of the images outside the box.
        other: (N,) classes of the images inside the box.
        share: (N,) share of the area that the box covers, in [0, 1].

    Returns:
        A scalar, the mean over the batch.
    """
    outside = F.cross_entropy(logits, labels, reduction="none")
    inside = F.cross_entropy(logits, other, reduction="none")
    return ((1 - share) * outside + share * inside).mean()


def patch_entropy(tokens: Sequence[Tensor]) -> Tensor:
    """How much the patches of an image differ in how alike they are, to a transformer.

    The differential entropy of the cosines between its tokens, by a Gaussian kernel (PSAQ-ViT,
    Li et al. 2022, eq. 4 to 8): noise gives the same cosine everywhere, an image with an object
    before a background does not. At most 32 tokens, evenly spread, are compared.

    Args:
        tokens: of each layer (N, places, features); layers with one place only do not count.

    Returns:
        (N,), in nats, the mean over layers; larger is more like a photograph.
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


def agreement_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """``1 - JS / ln 2``: 1 where two networks predict the same, 0 where nothing is in common.

    Made small, it asks for images on which they disagree (Adaptive DeepInversion, Yin et al. 2020,
    eq. 7, in units of its largest value). JS is the Jensen-Shannon divergence.

    Args:
        teacher: probabilities (N, K).
        student: probabilities (N, K).

    Returns:
        A scalar in [0, 1], the mean over the batch.
    """
    middle = ((teacher + student) / 2).clamp_min(_TINY).log()
    divergences = [
        F.kl_div(middle, p.clamp_min(_TINY), reduction="batchmean") for p in (teacher, student)
    ]
    return 1 - torch.stack(divergences).mean() / math.log(2)


def similarity_loss(images: Tensor, labels: Tensor) -> Tensor:
    """Mean squared cosine of the angle between images of the same class, 16 pixels high at most.

    Brightness and color of the whole do not count, so that it is layout that has to differ.

    Args:
        images: (N, C, H, W).
        labels: (N,).

    Returns:
        A scalar in [0, 1]; 0 where no two images have the same class.
    """
    side = _SIMILARITY_SIDE
    height, width = images.shape[2:]
    small = F.adaptive_avg_pool2d(images, (min(side, height), min(side, width)))
    rows = F.normalize((small - small.mean((2, 3), keepdim=True)).flatten(1), dim=1)
    same = labels[:, None] == labels[None, :]
    same.fill_diagonal_(False)
    return (rows @ rows.T).square()[same].sum() / same.sum().clamp_min(1)


def total_variation_loss(images: Tensor) -> Tensor:
    """Mean absolute difference between neighboring pixels, of images (N, C, H, W)."""
    total = images.new_zeros(())
    for dim in (2, 3):
        # A line of pixels has no neighbors across, and the mean of nothing is NaN.
        if images.shape[dim] > 1:
            total = total + images.diff(dim=dim).abs().mean()
    return total


def l2_loss(images: Tensor) -> Tensor:
    """Mean squared distance of pixels in [0, 1] from mid-gray."""
    return (images - 0.5).square().mean()
