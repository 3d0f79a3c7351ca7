"""Dependencies between channels of a network, by Torch-Pruning."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mixmix.errors import InputError, first_line, raise_if_out_of_memory
from mixmix.graph.copies import detached_copy

__all__ = [
    "dependency_graph",
    "dependent_channels",
    "torch_pruning_name",
    "trainable_copy",
    "untraceable",
]

# More features than any layer flattens its channels into.
_MAX_INDICES = 2**18
# Groups that can be pruned have at most one item for every two nodes, of some thousand indices.
_MAX_INDICES_OF_GROUP = 2**22
_ITEMS_PER_NODE = 2


def trainable_copy(model: nn.Module) -> nn.Module:
    """A copy for Torch-Pruning, which traces gradients."""
    return detached_copy(model).eval().requires_grad_(True)


def dependency_graph(model: nn.Module, example: Tensor) -> Any:
    """Torch-Pruning's graph, from one forward pass.

    Args:
        model: whose parameters require gradients; pruning in the graph changes its layers.
        example: (N, C, H, W) normalized images.

    Raises:
        InputError: if it cannot be traced.
    """
    import torch_pruning  # takes long to import

    try:
        with torch.enable_grad():
            return torch_pruning.DependencyGraph().build_dependency(
                model, example[:1], forward_fn=_forward_with_hidden_shapes, verbose=False
            )
    except Exception as failure:  # Torch-Pruning raises many kinds
        raise_if_out_of_memory(failure)
        raise untraceable(model, failure) from failure


def dependent_channels(graph: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Layers with output channels that no earlier layer's group contains.

    Yields:
        The layer, and Torch-Pruning's group for all of its outputs or the exception it raised.
    """
    seen: set[object] = set()
    endless: dict[object, Exception] = {}
    for layer in list(graph.module2node):
        if layer in seen or not isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            continue
        if layer in endless:
            yield layer, endless[layer]
            continue
        pruner = graph.get_pruner_of_module(layer)
        channels = list(range(pruner.get_out_channels(layer)))
        try:
            with _limited(most_items=_ITEMS_PER_NODE * len(graph.module2node)):
                group = graph.get_pruning_group(layer, pruner.prune_out_channels, channels)
        except Exception as failure:  # Torch-Pruning raises many kinds
            raise_if_out_of_memory(failure)
            if isinstance(failure, _EndlessError):
                endless |= dict.fromkeys(_layers_with_outputs(graph, failure.group), failure)
            yield layer, failure
            continue
        seen |= _layers_with_outputs(graph, group)
        yield layer, group


def _layers_with_outputs(graph: Any, group: Any) -> set[object]:
    """Modules whose output channels a group contains."""
    items = group.items
    return {d.target.module for d, _ in items if graph.is_out_channel_pruning_fn(d.handler)}


class _EndlessError(RuntimeError):
    """A group that grows without end."""

    def __init__(self, group: Any) -> None:
        super().__init__("reshapes permute them without end")
        self.group = group


@contextmanager
def _limited(*, most_items: int) -> Iterator[None]:
    """Raises where Torch-Pruning follows channels without end, as it does through windows."""
    from torch_pruning.dependency import group, index_mapping

    flatten = index_mapping._FlattenIndexMapping
    unlimited, unlimited_add = flatten.__call__, group.Group.add_dep

    def limited(self: Any, indices: list[Any]) -> Any:
        if not self.reverse and len(indices) * self._stride > _MAX_INDICES:
            raise RuntimeError("reshapes spread them over more features than there are")
        return unlimited(self, indices)

    num_indices = 0

    def limited_add(self: Any, dep: Any, idxs: list[Any]) -> None:
        nonlocal num_indices
        num_indices += len(idxs)
        if len(self) >= most_items or num_indices > _MAX_INDICES_OF_GROUP:
            raise _EndlessError(self)
        unlimited_add(self, dep, idxs)

    flatten.__call__, group.Group.add_dep = limited, limited_add
    try:
        yield
    finally:
        flatten.__call__, group.Group.add_dep = unlimited, unlimited_add


class _Hidden(torch.autograd.Function):
    """An operation that is a single node of the backward graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operation: Callable[[Tensor], Tensor]) -> Tensor:
        return operation(x.detach()).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("the backward graph is traced, not run")


class _HiddenShapes(TorchFunctionMode):
    """Hides reshapes from four dimensions to five and back, as in channel shuffles.

    Torch-Pruning guesses the number of channels after them, and fails for the whole network if the
    guess is wrong. It treats hidden operations as elementwise, which is checked later.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        tensors = [value for value in (*args, *named.values()) if isinstance(value, Tensor)]
        ranks = {value.dim() for value in (*args[:1], result) if isinstance(value, Tensor)}
        # With several inputs, the dependency on the others would be hidden as well.
        if len(tensors) == 1 and ranks == {4, 5} and result.requires_grad:
            return _Hidden.apply(args[0], lambda x: func(x, *args[1:], **named))
        return result


def _forward_with_hidden_shapes(model: nn.Module, example: Tensor) -> Any:
    with _HiddenShapes():
        return model(example)


def untraceable(model: nn.Module, failure: Exception) -> InputError:
    """The error for a network that cannot be traced."""
    reason = first_line(failure)
    if failure.__traceback__ is not None:  # its name says more than errors of types and indices
        name = traceback.extract_tb(failure.__traceback__)[-1].name
        reason = f"it fails in {name} ({type(failure).__name__}: {reason})"
    return InputError(
        f"{torch_pruning_name()} cannot trace {type(model).__name__}: {reason}; "
        "prune weights instead of channels, or replace the operations that it does not support"
    )


def torch_pruning_name() -> str:
    """Its name with the version."""
    return f"Torch-Pruning {version('torch-pruning')}"
