"""Masks of weights.

A weight (out, in, ...) is viewed as *rows* (out, ... * in): all input channels of one kernel
position, then those of the next. Groups of M along a row are groups of M input channels, as sparse
tensor cores expect them (2:4 in the order KRSC of cuDNN and TensorRT, and
``torch.sparse.to_sparse_semi_structured``) and NVIDIA's ASP prunes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

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
    """Inverse of ``as_rows`` for a weight of shape (out, in, ...)."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def keep_largest(scores: Tensor, num_kept: int) -> Tensor:
    """A mask, True for the ``num_kept`` largest scores (any shape)."""
    kept = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[scores.flatten().topk(num_kept).indices] = True
    return kept.view_as(scores)


def keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """A mask (rows, columns), True for the ``n`` largest scores of each group of ``m`` columns."""
    groups = scores.unflatten(1, (-1, m))
    best = groups.topk(n, dim=2).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter(2, best, True).flatten(1)


@torch.no_grad()
def set_zeros(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set weights to zero where their mask is False, in place; ``masks`` are by weight names."""
    weights = dict(module.named_parameters())
    for name, kept in masks.items():
        weights[name].masked_fill_(~kept.to(weights[name].device), 0)


@contextmanager
def hold_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Context in which weights have zero gradients where their mask is False.

    Pruned weights stay zero: the moments of an optimizer created in the context stay zero as well,
    and weight decay does not change zeros.

    Args:
        module: its weights are zero where masks are False.
        masks: by names of weights.
    """
    handles = []
    weights = dict(module.named_parameters())
    for name, kept in masks.items():
        weight = weights[name]
        if weight.requires_grad:
            removed = ~kept.to(weight.device)
            handles.append(weight.register_hook(partial(Tensor.masked_fill, mask=removed, value=0)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks by names of weights, as masks by names of layers of a network or its graph.

    The layer of a weight such as ``attn.in_proj_weight`` is ``attn.in_proj`` in a graph.

    Raises:
        InputError: if a mask fits no layer.
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
    """Check that a network is not quantized; integers are neither pruned nor quantized again.

    Raises:
        InputError: if it is.
    """
    if any(isinstance(part, QuantizedLayer) for part in module.modules()):
        raise InputError(
            f"{name} is quantized already; prune first and quantize once, as in "
            "compress(model, data, [Prune(...), Quantize(...)])"
        )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    """Weights of convolutions and linear layers, quantized or not, by names of layers."""
    weights = {}
    for name, layer in module.named_modules():
        if isinstance(layer, QuantizedLayer):
            weights[name] = layer.weight()
        elif isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
            weights[name] = layer.weight
    return weights


@dataclass(frozen=True)
class Pattern:
    """Sparsity pattern: unstructured, or at most ``n`` nonzero of every ``m`` input channels.

    Attributes:
        n: kept weights of a group; 0 if unstructured.
        m: weights of a group; 0 if unstructured.
    """

    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """From ``unstructured`` or ``N:M`` with 0 < N < M, such as ``2:4``.

        Raises:
            InputError: for any other text.
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
        """Fraction of zeros of an N:M pattern."""
        return 1 - self.n / self.m

    def fits(self, weight: Tensor) -> bool:
        """Whether the input channels of a weight (out, in, ...) divide into groups."""
        return not self.is_grouped or weight.shape[1] % self.m == 0

    def holds(self, kept: Tensor) -> bool:
        """Whether no group of a mask (out, in, ...) keeps more than ``n`` weights."""
        if not self.is_grouped:
            return True
        return bool((as_rows(kept).unflatten(1, (-1, self.m)).sum(2) <= self.n).all())
