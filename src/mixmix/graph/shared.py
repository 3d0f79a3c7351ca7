"""A module and its graph, which share all weights and statistics."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx, nn

from mixmix.graph.batch_norm import is_batch_norm
from mixmix.graph.calls import count_calls, module_of
from mixmix.graph.capture import capture, check_chain
from mixmix.graph.fold import normalizes_outputs
from mixmix.graph.units import Unit, split_into_units

__all__ = ["SharedGraph", "share_graph"]


@dataclass(frozen=True)
class SharedGraph:
    """A module and a graph of the same function that shares its parameters and buffers.

    Attributes:
        module: the original.
        graph_module: its graph.
        layers: the convolutions and linear layers of the graph by name, in order of execution.
        weight_names: from names of layers to names of their weights in ``module``; layers that
            share a weight have the same one.
    """

    module: nn.Module
    graph_module: fx.GraphModule
    layers: dict[str, nn.Conv2d | nn.Linear]
    weight_names: dict[str, str]

    def units(self) -> list[Unit]:
        """Its units; see ``split_into_units``."""
        return split_into_units(
            self.graph_module,
            is_layer=lambda node: node.op == "call_module" and str(node.target) in self.layers,
            is_entrance=lambda node: False,
        )

    def weight_owner(self, name: str) -> str:
        """The first layer that has the weight of a layer, mostly itself."""
        weight = self.weight_names[name]
        return next(layer for layer, other in self.weight_names.items() if other == weight)

    def following_norms(self) -> dict[str, str]:
        """From layers to the BatchNorm that is the only consumer of their outputs."""
        modules = dict(self.graph_module.named_modules())
        calls = count_calls(self.graph_module)
        found = {}
        for node in self.graph_module.graph.nodes:
            layer = module_of(node, modules)
            if str(node.target) not in self.layers or not normalizes_outputs(layer, node):
                continue
            user = next(iter(node.users), None)
            norm = module_of(user, modules)
            if (
                user is not None
                and len(node.users) == 1
                and is_batch_norm(norm)
                and calls[str(node.target)] == calls[str(user.target)] == 1
            ):
                found[str(node.target)] = str(user.target)
        return found


def share_graph(module: nn.Module, example: Tensor) -> SharedGraph:
    """Capture a module into a graph that shares its tensors; the module is not changed.

    Args:
        module: in eval mode.
        example: (N, C, H, W) normalized images, N >= 2.

    Raises:
        CaptureError: if it cannot be captured.
    """
    graph_module = capture(module, example)
    # Names in the module, by names in graphs of torch.export; other graphs keep them.
    sources = graph_module.meta.get("sources", {})
    parameters = dict(module.named_parameters(remove_duplicate=False))
    own: dict[str, Tensor] = parameters | dict(module.named_buffers(remove_duplicate=False))
    first_names = {parameter: name for name, parameter in module.named_parameters()}
    layers: dict[str, nn.Conv2d | nn.Linear] = {}
    weight_names: dict[str, str] = {}
    for path, part in graph_module.named_modules():
        for tensors in (part._parameters, part._buffers):
            for leaf, tensor in tensors.items():
                name = f"{path}.{leaf}".removeprefix(".")
                source = own.get(sources.get(name, name))
                if tensor is not None and source is not None and source.shape == tensor.shape:
                    tensors[leaf] = source
    modules = dict(graph_module.named_modules())
    for node in graph_module.graph.nodes:
        layer, path = module_of(node, modules), str(node.target)
        weight_name = sources.get(f"{path}.weight", f"{path}.weight")
        if weight_name in parameters and isinstance(layer, nn.Conv2d | nn.Linear):
            layers[path], weight_names[path] = layer, first_names[parameters[weight_name]]
    check_chain([graph_module], module, example)
    return SharedGraph(module, graph_module, layers, weight_names)
