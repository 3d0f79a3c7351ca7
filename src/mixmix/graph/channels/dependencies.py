"""Torch-Pruning's graph of which channels of a network depend on each other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mixmix.errors import InputError, first_line

__all__ = [
    "dependency_graph",
    "dependent_channels",
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
        example: (N, C, H, W) normalized images.

    Raises:
        InputError: if it cannot be followed.
    """
    import torch_pruning  # takes long to import

    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                model, example[:1], forward_fn=_forward_with_hidden_shapes, verbose=False
            )
    except Exception as failure:  # of whatever kind Torch-Pruning stumbles over
        raise untraceable(model, failure) from failure


def dependent_channels(graph: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Every layer whose outputs are not among those of an earlier one, and what depends on them.

    Yields:
        The layer, and Torch-Pruning's group for all of its outputs, or the exception that it
        stumbled over.
    """
    seen: set[object] = set()
    for layer in list(graph.module2node):
        if layer in seen or not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            continue
        pruner = graph.get_pruner_of_module(layer)
        channels = list(range(pruner.get_out_channels(layer)))
        try:
            group = graph.get_pruning_group(layer, pruner.prune_out_channels, channels)
        except Exception as failure:  # of whatever kind
            yield layer, failure
            continue
        seen |= {d.target.module for d, _ in group if graph.is_out_channel_pruning_fn(d.handler)}
        yield layer, group


class _Hidden(torch.autograd.Function):
    """One operation in the backward graph, whatever it is made of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
        return operation(x.detach()).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("the backward graph is read, and not run")


class _HiddenShapes(TorchFunctionMode):
    """Hides what turns images with four dimensions into five, and back.

    Channels are shuffled like that. Torch-Pruning would guess at how many there are behind it, and
    fails for the whole network where the guess is wrong; what it does not know, it takes for
    elementwise, which is found out later.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        tensors = [value for value in (*args, *given.values()) if isinstance(value, Tensor)]
        ranks = {value.dim() for value in (*args[:1], result) if isinstance(value, Tensor)}
        # Where several tensors go in, the part of the others would be hidden as well.
        if len(tensors) == 1 and ranks == {4, 5} and result.requires_grad:
            return _Hidden.apply(args[0], lambda x: func(x, *args[1:], **given))
        return result


def _forward_with_hidden_shapes(model: nn.Module, example: Tensor) -> Any:
    with _HiddenShapes():
        return model(example)


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
