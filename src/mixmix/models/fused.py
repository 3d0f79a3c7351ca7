"""Fast statistics of BatchNorm layers.

With hooks, activations are read for the mean, the variance, BatchNorm, the addition of a shortcut
and the activation function, and again for each gradient. Here, all of these are one pass forward
and one pass back.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from mixmix.errors import CaptureError
from mixmix.graph.agreement import output_error, relative_error
from mixmix.graph.batch_norm import is_batch_norm
from mixmix.graph.calls import module_of
from mixmix.graph.capture import capture
from mixmix.graph.ops import bounds_of, has_kind
from mixmix.models import fused_kernels
from mixmix.models.observation import BatchNormStatistics, Observation
from mixmix.runtime.compiled import Floats, flat_view

__all__ = ["FusedBatchNorm", "FusedNetwork"]

_TOLERANCE = 1e-3
# Approximate number of values in a row of the kernels' tables.
_ROW = 512
# Rows that are worth a thread.
_ROWS_PER_THREAD = 512
_UNBOUNDED = (-math.inf, math.inf)


class FusedNetwork:
    """A network whose BatchNorm layers also return the moments of their inputs.

    Args:
        model: in eval mode with frozen weights on the CPU.
        example: normalized images (N, C, H, W) to capture it with.

    Raises:
        CaptureError: if the model cannot be captured as a graph, or inputs of BatchNorm are not
            (N, C) or (N, C, H, W).
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        self._graph = capture(model, example).requires_grad_(False)
        self._layers = _fuse(self._graph, example)

    def observe(self, inputs: Tensor) -> Observation:
        """Logits and statistics, differentiable by ``inputs`` (N, C, H, W), in any thread."""
        logits, moments = self._graph(inputs)
        statistics = (
            BatchNormStatistics(mean, var, layer.running_mean, layer.running_var)
            for layer, (mean, var) in zip(self._layers, moments, strict=True)
        )
        return Observation(logits, tuple(statistics))

    def agrees_with(self, reference: Observation, inputs: Tensor) -> bool:
        """Whether the observation of ``inputs`` equals ``reference`` up to rounding."""
        seen = self.observe(inputs)
        if len(seen.statistics) != len(reference.statistics):
            return False
        if not output_error(seen.logits, reference.logits) < _TOLERANCE:
            return False
        return all(
            relative_error(one, wanted) < _TOLERANCE
            for own, other in zip(seen.statistics, reference.statistics, strict=True)
            for one, wanted in ((own.mean, other.mean), (own.var, other.var))
        )


class FusedBatchNorm(nn.Module):
    """``clamp(batch_norm(z) + shortcut)`` in eval mode, and the moments of z.

    Args:
        layer: with running statistics.
        bounds: of the clamp, such as (0, inf) for a ReLU.
    """

    def __init__(self, layer: nn.Module, bounds: tuple[float, float]) -> None:
        super().__init__()
        assert is_batch_norm(layer)
        assert layer.running_mean is not None and layer.running_var is not None
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        scale = (self.running_var + layer.eps).rsqrt()
        if layer.affine:
            scale = scale * layer.weight
        shift = layer.bias if layer.affine else torch.zeros_like(scale)
        self.bounds = bounds
        repeats = max(1, _ROW // len(scale))
        self.mean, self.scale, self.shift = (
            values.detach().float().repeat(repeats).numpy()
            for values in (self.running_mean, scale, shift)
        )

    def forward(self, z: Tensor, shortcut: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """y, and mean and biased variance (C,) of z, for z and shortcut (N, C) or (N, C, H, W)."""
        outputs: tuple[Tensor, Tensor, Tensor] = _Fused.apply(z, shortcut, self)
        return outputs


class _Fused(torch.autograd.Function):
    """The moments' gradient, ``(g_mean + 2 g_var (z - mean)) / n``, joins that of the output."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, shortcut: Tensor | None, layer: FusedBatchNorm
    ) -> tuple[Tensor, Tensor, Tensor]:
        z = _channels_innermost(z)
        y = torch.empty_like(z)
        added = None if shortcut is None else flat_view(_channels_innermost(shortcut))
        constants = (layer.mean, layer.scale, layer.shift, *_floats(layer.bounds))
        sums = _by_rows(fused_kernels.forward, [flat_view(z)], constants, [flat_view(y), added])
        num_channels = z.shape[1]
        count = z.numel() // num_channels
        deviation, square = (
            torch.from_numpy(sum(part).reshape(-1, num_channels).sum(0) / count)
            for part in zip(*sums, strict=True)
        )
        mean = (layer.running_mean + deviation).float()
        var = (square - deviation.square()).float()
        ctx.layer, ctx.joined = layer, shortcut is not None
        # The next layer may change an output without a clamp in place.
        reads_y = ctx.joined and layer.bounds != _UNBOUNDED
        ctx.save_for_backward(z, y if reads_y else z, mean)
        return y, mean, var

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, grad_mean: Tensor, grad_var: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        z, y, mean = ctx.saved_tensors
        layer = ctx.layer
        count = z.numel() // z.shape[1]
        slope = grad_var * (2 / count)
        offset = grad_mean / count - slope * mean
        repeats = len(layer.scale) // len(slope)
        slope, offset = (values.repeat(repeats).numpy() for values in (slope, offset))
        grad_z = torch.empty_like(z)
        grad_shortcut = torch.empty_like(z) if ctx.joined else None
        _by_rows(
            fused_kernels.backward,
            [
                flat_view(_channels_innermost(grad)),
                flat_view(z),
                flat_view(y) if ctx.joined else None,
            ],
            (layer.mean, layer.scale, layer.shift, slope, offset, *_floats(layer.bounds)),
            [flat_view(grad_z), None if grad_shortcut is None else flat_view(grad_shortcut)],
        )
        return grad_z, grad_shortcut, None


def _floats(bounds: tuple[float, float]) -> tuple[Any, Any]:
    """Bounds in the precision of the activations."""
    return np.float32(bounds[0]), np.float32(bounds[1])


def _channels_innermost(values: Tensor) -> Tensor:
    if values.ndim == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values.contiguous()


def _by_rows(
    kernel: Callable[..., Any],
    inputs: list[Floats | None],
    constants: Any,
    outputs: list[Floats | None],
) -> list[Any]:
    """Run a kernel over flat arrays as tables, in as many threads as torch uses.

    The last row may be shorter than the others. Returns the kernel's result for each part.
    """
    assert inputs[0] is not None
    width, size = len(constants[0]), len(inputs[0])
    rows = size // width
    parts = max(1, min(torch.get_num_threads(), rows // _ROWS_PER_THREAD))
    edges = [rows * part // parts for part in range(parts + 1)]

    def run(first: int, last: int, columns: int) -> Any:
        part = slice(first * width, first * width + (last - first) * columns)
        tables = [
            None if array is None else array[part].reshape(-1, columns)
            for array in (*inputs, *outputs)
        ]
        vectors = [c[:columns] if isinstance(c, np.ndarray) else c for c in constants]
        return kernel(*tables[: len(inputs)], *vectors, *tables[len(inputs) :])

    tasks = [(first, last, width) for first, last in itertools.pairwise(edges) if last > first]
    if parts > 1:
        results = list(_pool().map(lambda task: run(*task), tasks))
    else:
        results = [run(*task) for task in tasks]
    if size % width:
        results.append(_padded(run(rows, rows + 1, size - rows * width), width))
    return results


def _padded(sums: Any, width: int) -> Any:
    """Sums by column of a short row, with zeros for the missing columns."""
    return sums and tuple(np.pad(column, (0, width - len(column))) for column in sums)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="rows")


def _fuse(graph_module: fx.GraphModule, example: Tensor) -> list[FusedBatchNorm]:
    """Fuse every BatchNorm layer with the operations after it, in place; returns the fused layers.

    The graph then returns the logits and the moments of each fused layer.
    """
    with torch.no_grad():
        ShapeProp(graph_module).propagate(example)
    graph, modules = graph_module.graph, dict(graph_module.named_modules())
    layers: list[FusedBatchNorm] = []
    moments = []
    for node in list(graph.nodes):
        layer = module_of(node, modules)
        if layer is None or not is_batch_norm(layer):
            continue
        shape = _shape(node)
        if shape is None or len(shape) not in (2, 4):
            raise CaptureError(f"{node.target} normalizes a tensor of shape {shape}")
        last, shortcut, bounds = _followers(node, modules)
        fused = FusedBatchNorm(layer, bounds)
        name = f"fused_{len(layers)}"
        graph_module.add_submodule(name, fused)
        with graph.inserting_after(last):
            call = graph.call_module(name, (node.args[0], *([shortcut] if shortcut else [])))
        with graph.inserting_after(call):
            y, mean, var = (graph.call_function(operator.getitem, (call, i)) for i in range(3))
        y.meta = last.meta
        last.replace_all_uses_with(y)
        layers.append(fused)
        moments.append((mean, var))
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ((output.args[0], tuple(moments)),)
    graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return layers


def _followers(
    node: fx.Node, modules: dict[str, nn.Module]
) -> tuple[fx.Node, fx.Node | None, tuple[float, float]]:
    """Operations to fuse: the last node, the shortcut to add, the bounds to clamp to."""
    last, shortcut = node, None
    user = _only_user(last)
    if user is not None and has_kind(user, "add") and len(user.all_input_nodes) == 2:
        other = next(operand for operand in user.all_input_nodes if operand is not node)
        if not user.kwargs and _shape(other) == _shape(node) is not None:
            last, shortcut = user, other
            user = _only_user(last)
    bounds = None if user is None else bounds_of(user, modules)
    if user is None or bounds is None:
        return last, shortcut, _UNBOUNDED
    return user, shortcut, bounds


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: fx.Node) -> torch.Size | None:
    shape: torch.Size | None = getattr(node.meta.get("tensor_meta"), "shape", None)
    return shape
