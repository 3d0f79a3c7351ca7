"""Covariances of channels, regularized by how well they generalize between images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mixmix.compress.prune.channels.ranking import RIDGE
from mixmix.graph.channels.groups import ChannelGroup

__all__ = ["in_batches", "input_axis", "read_covariances", "ridge_by_halves"]

# Relative to the mean variance; with the largest, no channel predicts another.
_RIDGES = (RIDGE, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
_TINY = 1e-30


@torch.no_grad()
def read_covariances(
    model: nn.Module, groups: Sequence[ChannelGroup], images: Tensor
) -> list[Tensor]:
    """Covariances of each group's channels in the inputs of the layers that read them.

    Args:
        model: dense network, in eval mode.
        groups: its channel groups; the channels of an element count as further positions.
        images: (N, C, H, W) normalized, in random order.

    Returns:
        For each group, (elements, elements) on the CPU: the mean over its layers of covariances of
        mean variance 1, plus the ridge by which either half of the images best predicts the other.
    """
    modules = dict(model.named_modules())
    parts = [[(part, _Moments(len(part.indices))) for part in group.consumers] for group in groups]
    readers: dict[str, list[tuple[Tensor, _Moments]]] = {}
    for part, moments in (pair for own in parts for pair in own):
        readers.setdefault(part.layer, []).append((torch.tensor(part.indices), moments))
    half = 0

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        def measure(module: nn.Module, inputs: Any) -> None:
            x = inputs[0].detach()
            channels = x.movedim(input_axis(module, x), 0).flatten(1)
            for indices, moments in readers[name]:
                moments.add(channels[indices.to(x.device)].flatten(1), half=half)

        return measure

    hooks = [modules[name].register_forward_pre_hook(hook(name)) for name in readers]
    try:
        for index, batch in enumerate(in_batches(images, least=2)):
            half = index % 2
            model(batch)
    finally:
        for handle in hooks:
            handle.remove()
    return [_with_ridge([moments for _, moments in own]) for own in parts]


def ridge_by_halves(halves: Sequence[Tensor]) -> float:
    """The ridge by which channels are predicted best from one another.

    With fewer positions than channels, each channel is a combination of the others by chance.
    Hence the coefficients of one half are tested on the other, and the ridge is chosen that leaves
    the smallest fraction of variance unexplained, averaged over channels. (With ``P`` the inverse
    covariance, channel j is predicted from the others by ``-P_ij / P_jj``.)

    Args:
        halves: two covariances (channels, channels) of the same channels.

    Returns:
        The ridge relative to the mean variance, at least ``RIDGE``.
    """
    errors = torch.zeros(len(_RIDGES), dtype=torch.float64)
    for ours, theirs in (halves, halves[::-1]):
        scale = ours.diagonal().mean().clamp_min(_TINY)
        variance = theirs.diagonal()
        alive = variance > RIDGE * variance.mean()
        if not bool(alive.any()):  # a single image, or constant channels
            return _RIDGES[-1]
        identity = torch.eye(len(ours)).to(ours)
        for index, ridge in enumerate(_RIDGES):
            precision = torch.linalg.inv(ours + ridge * scale * identity)
            left = ((precision @ theirs) * precision).sum(1) / precision.diagonal().square()
            errors[index] += (left / variance.clamp_min(_TINY))[alive].mean()
    return _RIDGES[int(errors.argmin())]


def input_axis(module: nn.Module, x: Tensor) -> int:
    """The channel axis of a layer's input."""
    return x.ndim - 1 if isinstance(module, nn.Linear) else 1


def in_batches(images: Tensor, *, least: int = 1) -> Sequence[Tensor]:
    """Split into at least ``least`` batches, each of the pixels of at most 64 images of 32x32.

    Gradients keep all activations of a batch in memory.
    """
    most = max(4, min(64, 65536 // (images.shape[2] * images.shape[3])))
    batches: Sequence[Tensor] = images.split(min(most, -(-len(images) // least)))
    return batches


def _with_ridge(readers: Sequence[_Moments]) -> Tensor:
    def mean(*halves: int) -> Tensor:
        return torch.stack([moments.relative_covariance(*halves) for moments in readers]).mean(0)

    covariance = mean(0, 1)
    more = ridge_by_halves([mean(0), mean(1)]) - RIDGE
    return covariance + more * covariance.diagonal().mean() * torch.eye(len(covariance)).double()


class _Moments:
    """Sums over positions of centered elements and of their products, for each half."""

    def __init__(self, num_elements: int) -> None:
        self._count = [0, 0]
        self._center: Tensor | None = None
        self._total = torch.zeros(2, num_elements, dtype=torch.float64)
        self._products = torch.zeros(2, num_elements, num_elements, dtype=torch.float64)

    def add(self, channels: Tensor, *, half: int) -> None:
        """Add values (elements, positions); the first batch sets the center."""
        if self._center is None:
            self._center = channels.mean(1, keepdim=True)
        channels = channels - self._center
        self._count[half] += channels.shape[1]
        self._total[half] += channels.sum(1).cpu().double()
        self._products[half] += (channels @ channels.T).cpu().double()

    def relative_covariance(self, *halves: int) -> Tensor:
        """(elements, elements) of mean variance 1."""
        count = max(1, sum(self._count[half] for half in halves))
        mean = self._total[[*halves]].sum(0) / count
        covariance = self._products[[*halves]].sum(0) / count - torch.outer(mean, mean)
        return covariance / covariance.diagonal().mean().clamp_min(_TINY)
