"""Outputs of the layers of networks in PyTorch, with BatchNorm folded."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from mixmix.evaluate.layer_outputs import Grid, Layer, LayerOutputs, plain_name
from mixmix.graph.batch_norm import is_batch_norm
from mixmix.graph.calls import module_of
from mixmix.graph.capture import capture
from mixmix.graph.fold import fold_batch_norms
from mixmix.graph.ops import moves, narrows
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec

__all__ = ["GraphLayers"]


class GraphLayers(LayerOutputs):
    """A network that returns the outputs of its layers.

    Args:
        module: takes normalized images (N, C, H, W).
        spec: of the network.

    Raises:
        CaptureError: if it cannot be captured as a graph.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.spec, self.module = spec, module
        self._graph_module = _graph_of(module, spec)
        modules = dict(self._graph_module.named_modules())
        self._ends: dict[fx.Node, int] = {}
        self.layers: list[Layer] = []
        self._layers: list[nn.Conv2d | nn.Linear] = []
        for node in self._graph_module.graph.nodes:
            layer = module_of(node, modules)
            if isinstance(layer, QuantizedLayer | nn.Conv2d | nn.Linear):
                self._ends[_end(node, modules)] = len(self.layers)
                self.layers.append(_described(node, layer, modules))
                self._layers.append(layer)  # type: ignore[arg-type]

    @torch.no_grad()
    def output_with(self, index: int, changed: Layer, images: Tensor) -> Tensor | None:
        """The outputs (N, ...) if one layer has the weights and the input of another model's.

        None if the weights have another shape.
        """
        weight, own = changed.weight, self._layers[index]
        if weight is not None and weight.shape == own.weight.shape[::-1] and weight.ndim == 2:
            weight = weight.T if weight.shape != own.weight.shape else weight
        if weight is None or weight.shape != own.weight.shape:
            return None
        before, handles = own.weight.data, []
        if changed.grid is not None:
            grid = changed.grid
            handles.append(own.register_forward_pre_hook(lambda _, inputs: (grid(inputs[0]),)))
        try:
            own.weight.data = weight.to(before)
            outputs: Tensor = self._graph_module(normalize(images, self.spec))
        finally:
            own.weight.data = before
            for handle in handles:
                handle.remove()
        return outputs

    @torch.no_grad()
    def run(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        found: dict[int, Tensor] = {}
        ends = self._ends

        class Run(fx.Interpreter):
            def run_node(self, n: fx.Node) -> object:
                result: object = super().run_node(n)
                if n in ends and isinstance(result, Tensor):
                    found[ends[n]] = result
                return result

        outputs = Run(self._graph_module).run(normalize(images, self.spec))
        assert isinstance(outputs, Tensor)
        return [found[index] for index in range(len(self.layers))], outputs


def _graph_of(module: nn.Module, spec: ModelSpec) -> fx.GraphModule:
    if isinstance(module, fx.GraphModule) and any(
        isinstance(each, QuantizedLayer) for each in module.modules()
    ):
        return module
    generator = torch.Generator().manual_seed(0)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    images = torch.rand(4, *spec.input_shape, generator=generator).to(device)
    example = normalize(images, spec)
    graph_module = capture(module, example)
    fold_batch_norms(graph_module, example)
    return graph_module


def _end(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node:
    """The last of the operations that belong to a layer."""
    while len(node.users) == 1:
        (user,) = node.users
        module = module_of(user, modules)
        if not (
            is_batch_norm(module)
            or isinstance(module, QuantizedActivation)
            or narrows(user, modules)
        ):
            break
        node = user
    return node


def _described(node: fx.Node, layer: nn.Module, modules: dict[str, nn.Module]) -> Layer:
    name, source = str(node.target), node.args[0]
    while isinstance(source, fx.Node) and moves(source, modules):
        source = source.all_input_nodes[0]
    quantizer, grid = module_of(source, modules), None
    if isinstance(quantizer, QuantizedActivation):
        scale, zero_point = float(quantizer.scale), int(quantizer.zero_point)
        grid = Grid(scale, zero_point, 0, quantizer.largest)
    if isinstance(layer, QuantizedLayer):
        return Layer(name, (plain_name(name),), layer.weight(), layer.bits, grid)
    assert isinstance(layer.weight, Tensor)
    return Layer(name, (plain_name(name),), layer.weight, None, grid)
