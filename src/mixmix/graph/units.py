"""Units of reconstruction: segments of a graph with one input and one output.

Cuts are where a single tensor is alive, and its rows are images. Residual blocks, dense blocks and
single layers result without knowledge of the architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, fx

from mixmix.graph.floats import is_float
from mixmix.graph.ops import has_kind

__all__ = ["Unit", "channel_axis", "split_into_units"]


@dataclass(frozen=True)
class Unit:
    """A segment as a graph module, which shares its layers with the whole graph."""

    module: fx.GraphModule
    layers: tuple[str, ...]

    @property
    def name(self) -> str:
        """``first layer..last layer``."""
        return self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]}..{self.layers[-1]}"


def channel_axis(tensor: Tensor) -> int:
    """The axis of channels: 2 for tokens (N, T, C), else 1 as in (N, C, ...)."""
    return 2 if tensor.ndim == 3 else 1


def split_into_units(
    graph_module: fx.GraphModule,
    *,
    is_layer: Callable[[fx.Node], bool],
    is_entrance: Callable[[fx.Node], bool],
) -> list[Unit]:
    """Cut a graph into the smallest single-entry, single-exit segments that contain a layer.

    Args:
        graph_module: with one input and one output tensor.
        is_layer: whether the weights of a node are reconstructed.
        is_entrance: whether a node quantizes the input of a layer, and belongs to the unit of that
            layer. All other nodes belong to the unit of the preceding layer.

    Returns:
        Units in order of execution; their composition is the graph.
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
    """Indices of nodes after which exactly one tensor is alive, with one row for each image."""
    positions = {node: index for index, node in enumerate(nodes)}
    alive = [0] * (len(nodes) + 1)
    for node, index in positions.items():
        last_use = max((positions.get(user, len(nodes)) for user in node.users), default=index)
        for position in range(index, last_use):
            # The output of a split is several tensors, even if one of them is alive. Masks and
            # indices cannot be learned from.
            is_single = is_float(node) and not any(has_kind(user, "index") for user in node.users)
            alive[position] += 1 if is_single else 2
    return {
        index
        for index, node in enumerate(nodes)
        if alive[index] == 1 and node.meta.get("images", True)
    }


def _only_input(segment: list[fx.Node]) -> fx.Node:
    inside = set(segment)
    outside = {
        source
        for node in segment
        for source in node.all_input_nodes
        if source not in inside and source.op != "get_attr"
    }
    assert len(outside) == 1, f"a unit has one input, found {outside}"
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
