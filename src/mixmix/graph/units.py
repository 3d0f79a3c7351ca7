"""Units of reconstruction: segments of the graph with one entry and one exit.

Found from the graph alone: a place where a single tensor is alive separates what comes before from
what comes after. Residual blocks, dense blocks and plain layers fall out without their names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, fx

from mixmix.graph.ops import has_kind

__all__ = ["Unit", "channel_axis", "split_into_units"]


@dataclass(frozen=True)
class Unit:
    """A segment: its own graph module (one input, one output; it shares layers with the whole)."""

    module: fx.GraphModule
    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its first layer, and of the last where there are several."""
        return self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]}..{self.layers[-1]}"


def channel_axis(tensor: Tensor) -> int:
    """The axis of channels: the last of tokens (N, T, C), else the second of (N, C, ...)."""
    return 2 if tensor.ndim == 3 else 1


def split_into_units(
    graph_module: fx.GraphModule,
    *,
    is_layer: Callable[[fx.Node], bool],
    is_entrance: Callable[[fx.Node], bool],
) -> list[Unit]:
    """Cut the graph into the smallest single-entry, single-exit segments that hold a layer.

    Args:
        graph_module: a graph with one input and one output tensor.
        is_layer: true for the nodes whose weights are reconstructed.
        is_entrance: true for the quantizers of what enters layers. They belong to the unit that
            uses them; other nodes (activations, pooling, quantizers of what is added or
            concatenated) go with the layer before them.

    Returns:
        Units in order; running them one after another is running the graph.
    """
    nodes = [node for node in graph_module.graph.nodes if node.op not in ("output", "get_attr")]
    units = []
    start = 1  # nodes[0] is the placeholder
    for end in _boundaries(nodes, is_layer, is_entrance):
        segment = nodes[start : end + 1]
        units.append(_build_unit(graph_module, _only_input(segment), segment, is_layer))
        start = end + 1
    return units


def _boundaries(
    nodes: list[fx.Node],
    is_layer: Callable[[fx.Node], bool],
    is_entrance: Callable[[fx.Node], bool],
) -> list[int]:
    """Index of the last node of each unit."""
    cuts = _single_tensor_cuts(nodes)
    boundaries: list[int] = []
    holds_layer = False
    candidate: int | None = None
    for index, node in enumerate(nodes):
        if candidate is not None and (is_layer(node) or is_entrance(node)):
            boundaries.append(candidate)
            holds_layer, candidate = False, None
        holds_layer = holds_layer or is_layer(node)
        if holds_layer and index in cuts:
            candidate = index
    return [*boundaries, len(nodes) - 1]


def _single_tensor_cuts(nodes: list[fx.Node]) -> set[int]:
    """Indices after which exactly one of the tensors made so far is still needed."""
    position = {node: index for index, node in enumerate(nodes)}
    alive = [0] * (len(nodes) + 1)
    for node, index in position.items():
        last_use = max((position.get(user, len(nodes)) for user in node.users), default=index)
        for place in range(index, last_use):
            # What a split returns is not one tensor, whatever is still needed of it.
            alive[place] += 2 if any(has_kind(user, "index") for user in node.users) else 1
    return {index for index in range(len(nodes)) if alive[index] == 1}


def _only_input(segment: list[fx.Node]) -> fx.Node:
    inside = set(segment)
    outside = {
        source
        for node in segment
        for source in node.all_input_nodes
        if source not in inside and source.op != "get_attr"
    }
    assert len(outside) == 1, f"a unit has one entry, found {outside}"
    return outside.pop()


def _build_unit(
    whole: fx.GraphModule,
    entry: fx.Node,
    segment: list[fx.Node],
    is_layer: Callable[[fx.Node], bool],
) -> Unit:
    graph = fx.Graph()
    copies = {entry: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            assert node.op == "get_attr"
            copies[node] = graph.get_attr(str(node.target))
        return copies[node]

    for node in segment:
        copies[node] = graph.node_copy(node, copied)
    graph.output(copies[segment[-1]])
    layers = dict.fromkeys(str(node.target) for node in segment if is_layer(node))
    return Unit(fx.GraphModule(whole, graph), tuple(layers))
