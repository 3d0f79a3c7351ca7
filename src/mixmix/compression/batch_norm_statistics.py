"""Statistics of BatchNorm layers, measured anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["reestimate_batch_norms_"]


@torch.no_grad()
def reestimate_batch_norms_(model: nn.Module, images: Tensor, *, batch_size: int = 64) -> None:
    """Replace, in place, the mean and variance of every BatchNorm by those of its input.

    A layer behind others sees them normalised by the statistics of the batch, as in training. Of
    several batches the mean is taken.

    Args:
        model: such as a network that has lost channels.
        images: (N, C, H, W) normalised, N >= 2.
        batch_size: images in one batch.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    before = [(norm.training, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.num_batches_tracked = torch.tensor(0, device=images.device)
            norm.momentum = None  # the plain mean of all batches
            norm.train()
        for batch in images.tensor_split(max(1, len(images) // batch_size)):
            model(batch)
    finally:
        for norm, (training, momentum, count) in zip(norms, before, strict=True):
            norm.train(training)
            norm.momentum, norm.num_batches_tracked = momentum, count
