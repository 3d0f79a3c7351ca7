"""How much each output of a unit matters to what the network predicts.

The squared error of a unit counts all of its outputs alike; weights on it bring it nearer to the
error of the network's prediction (BRECQ, Li et al. 2021, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mixmix.compress.activation_store import ActivationStore
from mixmix.compress.divergence import fisher_directions
from mixmix.graph.units import channel_axis

__all__ = ["LOSSES", "measure_loss_weights"]

LOSSES = ("mse", "fisher", "output")


def measure_loss_weights(
    rest: Sequence[Callable[[Tensor], Tensor]],
    outputs: Tensor,
    loss: str,
    *,
    store: ActivationStore,
    generator: torch.Generator,
) -> Tensor | None:
    """Weights of the squared error of a unit's outputs, of mean 1.

    Args:
        rest: what follows the unit in the original network, applied in order, up to the logits.
        outputs: (N, ...) of the unit in the original network.
        loss: ``fisher``: each value by the diagonal of its Fisher information, which is the squared
            gradient of the log-likelihood in the mean over the classes as the network predicts
            them (BRECQ, eq. 10); ``output``: each channel by the squared gradient of the logits, in
            the mean over images and positions. Both are estimated by one random direction of the
            logits for each image. ``mse``: alike.
        store: where the weights are kept.
        generator: CPU generator for the directions.

    Returns:
        (N, ...) for ``fisher``, (1, ...) for ``output``, in the layout of ``outputs``; None for
        ``mse``.
    """
    if loss == "mse":
        return None

    def squared_gradient(batch: Tensor) -> Tensor:
        leaf = batch.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            logits = leaf.clone()  # a later layer may work in place
            for step in rest:
                logits = step(logits)
        flat = logits.detach().flatten(1)
        signs = torch.randint(2, flat.shape, generator=generator).to(flat) * 2 - 1
        directions = fisher_directions(flat, signs) if loss == "fisher" else signs
        (gradient,) = torch.autograd.grad(logits, leaf, directions.view_as(logits))
        # In the layout of the outputs, which a gradient need not have.
        return torch.empty_like(batch).copy_(gradient.square())

    squares = store.run(squared_gradient, outputs)
    if loss == "output":
        axes = [axis for axis in range(squares.ndim) if axis != channel_axis(squares)]
        channels = squares.mean(axes, keepdim=True)
        squares = torch.empty_like(outputs[:1]).copy_(channels.expand_as(outputs[:1]))
    mean = squares.mean()
    if not float(mean) > 0:  # nothing that the unit gives reaches the logits
        return None
    return squares.div_(mean)
