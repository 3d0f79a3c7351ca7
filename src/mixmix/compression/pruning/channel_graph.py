"""Torch-Pruning's graph of which channels of a network depend on each other."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mixmix.errors import InputError

__all__ = [
    "dependency_graph",
    "first_line",
    "torch_pruning_name",
    "trainable_copy",
    "untraceable",
]


def trainable_copy(model: nn.Module) -> nn.Module:
    """Torch-Pruning follows gradients."""
    return copy.deepcopy(model).eval().requires_grad_(True)


def dependency_graph(model: nn.Module, example: Tensor) -> Any:
    """Follow one forward pass.

    Args:
        model: whose parameters require gradients; its layers are in the graph, and are changed by
            what is pruned there.
        example: (N, C, H, W) normalised images.

    Raises:
        InputError: if it cannot be followed.
    """
    import torch_pruning  # takes long to import

    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                model, example[:1], verbose=False
            )
    except Exception as failure:  # of whatever kind Torch-Pruning stumbles over
        raise untraceable(model, failure) from failure


def untraceable(model: nn.Module, failure: Exception) -> InputError:
    """The error for a network that cannot be followed."""
    return InputError(
        f"{torch_pruning_name()} cannot trace {type(model).__name__}: {first_line(failure)}; "
        "prune weights instead of channels, or take out what it does not know"
    )


def torch_pruning_name() -> str:
    """With its version."""
    from importlib.metadata import version

    return f"Torch-Pruning {version('torch-pruning')}"


def first_line(failure: Exception) -> str:
    """What a failure says at first, after its kind."""
    lines = str(failure).strip().splitlines()
    return f"{type(failure).__name__}: {lines[0][:200]}" if lines else type(failure).__name__
