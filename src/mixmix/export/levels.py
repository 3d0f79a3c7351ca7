"""Comparison of an exported file with its model, one quantizer at a time.

A rounding error of a sum can move a value to the next level, and later layers amplify that. So each
quantizer of the model gets inputs that were computed from the file's own quantized values. Then all
that remains of rounding errors is a small fraction of a step, however deep the network is, and any
other difference is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from mixmix.compress.method import Compressed
from mixmix.errors import ExportError
from mixmix.graph.calls import name_of
from mixmix.graph.quantized import QuantizedActivation
from mixmix.models.model import Model

__all__ = ["FileLevels", "check_levels"]

# Beyond the half step of rounding, for 8 bits: above rounding errors of floats.
_SLACK = 0.02


class FileLevels(NamedTuple):
    """Values behind a quantizer of a file, in the order of execution, and the quantizer's grid."""

    scale: float
    zero_point: int
    values: Tensor


@torch.no_grad()
def check_levels(levels: Sequence[FileLevels], compressed: Compressed, images: Tensor) -> Tensor:
    """Check that each quantizer of a file returns the level nearest to its input in the model.

    Args:
        levels: of the file, which was run without an optimizer.
        compressed: the model; it is not changed.
        images: (N, C, H, W) in [0, 1], those that the file was run on.

    Returns:
        The model's logits (N, K), computed from the last quantized values of the file.

    Raises:
        ExportError: if a value is further from its input than half a step, or a quantizer is
            absent.
    """
    model = Model(compressed.module, compressed.spec)  # a copy

    def compare(
        name: str, quantizer: nn.Module, inputs: tuple[Tensor], output: Tensor
    ) -> Tensor | None:
        assert isinstance(quantizer, QuantizedActivation)
        scale, zero_point = float(quantizer.scale), int(quantizer.zero_point)
        # The same values are written several times where operations move them.
        same = [
            each.values.reshape(output.shape)
            for each in levels
            if (each.scale, each.zero_point) == (scale, zero_point)
            and each.values.numel() == output.numel()
        ]
        if not same:
            if bool((inputs[0] == inputs[0][:1]).all()):  # constants are written as values
                return None
            raise ExportError(
                f"the exported file of {compressed.spec.name} computes something else than the "
                f"model: it has no quantizer with the scale {scale:g} and the zero point "
                f"{zero_point} of {name}; nothing was written"
            )
        limits = -zero_point, quantizer.largest - zero_point
        position = (inputs[0] / quantizer.scale).clamp(*limits)
        distances = [float((one / quantizer.scale - position).abs().max()) for one in same]
        nearest = min(range(len(same)), key=distances.__getitem__)
        allowed = 0.5 + _SLACK * 2.0 ** max(0, quantizer.bits - 8)
        if not distances[nearest] <= allowed:
            raise ExportError(
                f"the exported file of {compressed.spec.name} computes something else than the "
                f"model: what {_source(model.module, name)} returns is up to "
                f"{distances[nearest]:.2f} steps of {name} from that of the model, expected at "
                f"most {allowed:.2f}; nothing was written"
            )
        return same[nearest]

    for name, module in model.module.named_modules():
        if isinstance(module, QuantizedActivation):
            module.register_forward_hook(partial(compare, name))
    return model(images)


def _source(module: nn.Module, quantizer: str) -> str:
    """The layer or operation whose output a quantizer rounds, for a message."""
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            if node.op == "call_module" and node.target == quantizer:
                return name_of(node.all_input_nodes[0])
    return "the layer"
