"""Zeros among the weights of a network: counted, and checked against its masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mixmix._display import html_table, percent, summary
from mixmix.compress.method import Compressed
from mixmix.errors import ExportError
from mixmix.graph.masks import Pattern, _weights, layer_masks
from mixmix.models.model import Model

__all__ = ["Sparsity", "check_zeros", "sparsity_of"]


def check_zeros(compressed: Compressed) -> None:
    """Check that pruned weights are zero and that N:M patterns hold.

    Raises:
        ExportError: naming the layer that fails.
    """
    weights, own = _weights(compressed.module), dict(compressed.module.named_parameters())
    patterns = {
        name: Pattern.parse(method.settings["pattern"])
        for method in compressed.applied
        if "pattern" in method.settings
        for name in method.results.get("layer_sparsity", ())
    }
    for weight_name, mask in compressed.masks.items():
        # A weight of the original module may belong to a layer of the graph only.
        name = weight_name.removesuffix(".weight")
        weight: Tensor | None = own.get(weight_name)
        if weight is None:
            ((name, _),) = layer_masks(compressed.module, {weight_name: mask}).items()
            weight = weights[name]
        used = weight.detach().cpu() != 0
        if bool((used & ~mask.cpu()).any()):
            raise ExportError(f"pruned weights of {name} are not zero")
        pattern = patterns.get(name, Pattern())
        if not pattern.holds(used):
            raise ExportError(
                f"{name} has more than {pattern.n} weights in a group of {pattern.m} input channels"
            )


@dataclass(frozen=True, repr=False)
class Sparsity:
    """Fractions of zeros among the weights of convolutions and linear layers, in [0, 1].

    Attributes:
        total: fraction over all layers.
        layers: fraction in each layer, by name.
    """

    total: float
    layers: Mapping[str, float]

    def __repr__(self) -> str:
        highest = max(self.layers.items(), key=lambda item: item[1], default=None)
        facts = {
            "total": percent(100 * self.total),
            "layers": len(self.layers),
            "highest": None if highest is None else f"{highest[0]} {percent(100 * highest[1])}",
        }
        return summary("Sparsity", facts)

    def _repr_html_(self) -> str:
        rows = [{"layer": k, "zeros": percent(100 * v)} for k, v in self.layers.items()]
        return html_table(rows, caption=f"{percent(100 * self.total)} of all weights are zero")


def sparsity_of(module: nn.Module | Compressed | Model) -> Sparsity:
    """Count the zeros among the weights of a network, float or quantized.

    Examples:
        >>> import torch
        >>> layer = torch.nn.Conv2d(3, 4, 3)
        >>> layer.weight.data[:2] = 0
        >>> mixmix.sparsity_of(torch.nn.Sequential(layer)).total
        0.5
    """
    weights = _weights(module if isinstance(module, nn.Module) else module.module)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights.items()}
    sizes = {name: weight.numel() for name, weight in weights.items()}
    return Sparsity(
        total=sum(zeros.values()) / max(1, sum(sizes.values())),
        layers={name: zeros[name] / sizes[name] for name in zeros},
    )
