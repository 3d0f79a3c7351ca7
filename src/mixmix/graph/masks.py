"""Masks of weights: how they are found from scores, held and named.

A weight (out, in, ...) is looked at as *rows* (out, ... * in): all input channels of one position
of a kernel side by side, then the next. Groups of M along a row are then groups of M input
channels, as sparse tensor cores take them (2:4 in the order KRSC of cuDNN and TensorRT, and
``torch.sparse.to_sparse_semi_structured`` of those rows) and NVIDIA's ASP prunes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixmix.errors import InputError
from mixmix.graph.quantized import QuantizedLayer

__all__ = [
    "Pattern",
    "as_rows",
    "from_rows",
    "hold_masks",
    "keep_largest",
    "keep_n_of_m",
    "layer_masks",
    "refuse_quantized",
    "set_zeros",
]


def as_rows(weight: Tensor) -> Tensor:
    """(out, in, ...) as rows (out, ... * in), input channels innermost."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def from_rows(rows: Tensor, shape: torch.Size) -> Tensor:
    """The weight of a shape (out, in, ...) that ``as_rows`` gave these rows of."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def keep_largest(scores: Tensor, num_kept: int) -> Tensor:
    """A mask, True where the scores (any shape) are the largest; exactly so many are kept."""
    kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[scores.flatten().topk(num_kept).indices] = True
    return kept.view_as(scores)


def keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """A mask (rows, columns), True where scores are the ``n`` largest of ``m`` neighbors."""
    groups = scores.unflatten(1, (-1, m))
    best = groups.topk(n, dim=2).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter(2, best, True).flatten(1)


@torch.no_grad()
def set_zeros(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set weights to zero, in place, where their mask is False; masks are by their names."""
    weights = dict(module.named_parameters())
    for name, kept in masks.items():
        weights[name].masked_fill_(~kept.to(weights[name].device), 0)


@contextmanager
def hold_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Within this, weights get no gradient where their mask is False.

    Zeros without gradients stay zeros: the moments of an optimizer that starts within stay zero
    as well, and no decay moves them.

    Args:
        module: its weights are zero there already.
        masks: by the names of the weights.
    """
    handles = []
    weights = dict(module.named_parameters())
    for name, kept in masks.items():
        weight = weights[name]
        # What requires no gradient is not trained, and takes no hook.
        if weight.requires_grad:
            handles.append(weight.register_hook(_Cleared(~kept.to(weight.device))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Cleared:
    """Clears the gradient of what is removed."""

    def __init__(self, removed: Tensor) -> None:
        self._removed = removed

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(self._removed, 0)


def layer_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks by the names of layers of a network or its graph, from masks by those of weights.

    A weight that is not a layer's own, as ``attn.in_proj_weight``, is that of the layer
    ``attn.in_proj`` in a graph.

    Raises:
        InputError: if a mask belongs to no layer, so that its zeros would be lost.
    """
    named = {}
    weights = _weights(module)
    for weight_name, kept in masks.items():
        names = [weight_name.removesuffix(end) for end in (".weight", "_weight")]
        name = next((n for n in names if n != weight_name and n in weights), None)
        if name is None or weights[name].shape != kept.shape:
            raise InputError(
                f"the mask of {weight_name} fits no layer of the network: masks have the names "
                "and shapes of weights of convolutions and linear layers"
            )
        named[name] = kept
    return named


def refuse_quantized(module: nn.Module, name: str) -> None:
    """Raise if a network is quantized: its integers are neither pruned nor quantized again.

    Raises:
        InputError: saying what to do.
    """
    if any(isinstance(part, QuantizedLayer) for part in module.modules()):
        raise InputError(
            f"{name} is quantized already, which comes last: prune before, and quantize once, as "
            "in compress(model, data, [Prune(...), Quantize(...)])"
        )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Weights of convolutions and linear layers, in floats or quantized, by the layers' names."""
    weights = {}
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLayer):
            weights[name] = layer.weight()
        elif isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            weights[name] = layer.weight
    return weights


@dataclass(frozen=True)
class Pattern:
    """Where zeros may be: anywhere, or all but ``n`` of every ``m`` input channels.

    Attributes:
        n: weights that are kept of a group, or 0 where zeros may be anywhere.
        m: weights of a group, or 0.
    """

    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """From ``unstructured`` or ``N:M``, such as ``2:4``.

        Raises:
            InputError: unless it is one of them with 0 < N < M.
        """
        if text == "unstructured":
            return cls()
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise InputError(
                f"pattern must be 'unstructured', or N:M with 0 < N < M such as '2:4', got {text!r}"
            )
        return cls(int(match[1]), int(match[2]))

    @property
    def is_grouped(self) -> bool:
        return self.m > 0

    @property
    def sparsity(self) -> float:
        """Share of zeros that follows from it, for groups."""
        return 1 - self.n / self.m

    def fits(self, weight: Tensor) -> bool:
        """Whether the input channels of a weight (out, in, ...) are whole groups."""
        return not self.is_grouped or weight.shape[1] % self.m == 0

    def holds(self, kept: Tensor) -> bool:
        """Whether no group of a mask (out, in, ...), True where kept, keeps more than ``n``."""
        if not self.is_grouped:
            return True
        return bool((as_rows(kept).unflatten(1, (-1, self.m)).sum(2) <= self.n).all())
