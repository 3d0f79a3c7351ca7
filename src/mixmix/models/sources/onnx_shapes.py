"""Replaces shape arithmetic in converted ONNX graphs by constants.

Exporters write the shape arithmetic of a network as nodes that read, slice, multiply and join
sizes. For images of one size, all of these are constant but the batch size.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.runtimes.size_limit import SizeLimit

__all__ = ["kind_of", "settle_shapes"]

# Two batch sizes show what depends on it; odd, so that they cannot be halved.
_BATCHES = (3, 5)

# Of images; by the names of ONNX.
_RESIZE_MODES = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}


def settle_shapes(model: fx.GraphModule, input_shape: Sequence[int], batch: int | None) -> None:
    """Replace shape arithmetic of onnx2torch by constants and plain calls, in place.

    Unknown patterns stay as they are; callers verify the outputs.

    Args:
        model: from onnx2torch, in eval mode; takes one batch of images.
        input_shape: (C, H, W) of an image.
        batch: the batch size that the file was written for, or None for any.
    """
    sizes = _BATCHES if batch is None else (batch, batch)
    by_size = {size: _Run(model, torch.zeros(size, *input_shape)) for size in sizes}
    runs = [by_size[size] for size in sizes]
    settled = _Settled(model, runs, sizes)
    for node in list(model.graph.nodes):
        if node in runs[0].of_images and node.op != "placeholder":
            settled.settle(node)
    model.graph.eliminate_dead_code()
    model.delete_all_unused_submodules()
    model.recompile()


class _Run(fx.Interpreter):
    """A run on one batch that records shapes, and the values that do not depend on pixels.

    Attributes:
        of_images: nodes whose values depend on pixels.
        values: of the other nodes.
        shapes: of all nodes that return a tensor.
    """

    def __init__(self, model: fx.GraphModule, images: Tensor) -> None:
        super().__init__(model)
        self.extra_traceback = False  # in messages of errors
        self._model = model
        self.of_images: set[fx.Node] = set()
        self.values: dict[fx.Node, Any] = {}
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        with torch.no_grad(), SizeLimit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of modules of onnx2torch that are replaced
            self.run(images)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        sees_images = any(each in self.of_images for each in n.all_input_nodes)
        if n.op == "placeholder" or (sees_images and kind_of(self._model, n) != "OnnxShape"):
            self.of_images.add(n)
        else:
            self.values[n] = result
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
        return result


class _Settled:
    """Rewrites one node at a time."""

    def __init__(self, model: fx.GraphModule, runs: Sequence[_Run], sizes: Sequence[int]) -> None:
        self._model, self._graph = model, model.graph
        self._runs = self._first, self._second = runs
        self._sizes = tuple(sizes)
        self._images = next(node for node in model.graph.nodes if node.op == "placeholder")
        self._number: fx.Node | None = None
        self._plain: dict[str, Callable[[fx.Node, Any], fx.Node | None]] = {
            "OnnxReshape": self._reshape,
            "OnnxExpand": self._expand,
            "OnnxSlice": self._slice,
            "OnnxGather": self._gather,
            "OnnxSplit13": self._split,
            "OnnxResize": self._resize,
            "OnnxResizeV10": self._resize,
            "OnnxPadDynamic": self._pad,
            "OnnxSqueezeDynamicAxes": partial(self._axis_by_axis, "squeeze"),
            "OnnxUnsqueezeDynamicAxes": partial(self._axis_by_axis, "unsqueeze"),
        }

    def settle(self, node: fx.Node) -> None:
        plain, source = self._plain.get(kind_of(self._model, node)), node.args[0]
        sees_images = isinstance(source, fx.Node) and source in self._first.of_images
        with self._graph.inserting_before(node):
            new = plain(node, source) if plain is not None and sees_images else None
            if new is None:
                for given in node.all_input_nodes:
                    if given not in self._first.of_images:
                        self._fix_input(node, given)
                return
        node.replace_all_uses_with(new)
        for run in self._runs:
            run.of_images.add(new)
            if node in run.shapes:
                run.shapes[new] = run.shapes[node]
        self._graph.erase_node(node)

    def _fix_input(self, node: fx.Node, given: fx.Node) -> None:
        """Replace an input by a constant, or by a row of it that is expanded to the batch."""
        first, second = (run.values.get(given) for run in self._runs)
        if not isinstance(first, Tensor) or not isinstance(second, Tensor):
            return
        by_image = first.ndim > 1 and _leads(first.shape, second.shape, self._sizes)
        if by_image and self._joins_rows(node) and bool((first == first[:1]).all()):
            row = self._constant(given, first[:1])
            rest = [-1] * (first.ndim - 1)
            rows = self._graph.call_method("expand", (row, self._batch(), *rest))
            node.replace_input_with(given, rows)
        elif given.op != "get_attr" and first.shape == second.shape and torch.equal(first, second):
            node.replace_input_with(given, self._constant(given, first))

    def _joins_rows(self, node: fx.Node) -> bool:
        """Whether it joins tensors along another axis than the batch."""
        return kind_of(self._model, node) == "OnnxConcat" and self._axis_of(node, "axis") != 0

    def _constant(self, node: fx.Node, value: Tensor) -> fx.Node:
        name = f"settled_{node.name}"
        self._model.register_buffer(name, value.clone())
        return self._graph.get_attr(name)

    def _batch(self) -> fx.Node:
        """A node with the batch size."""
        if self._number is None:
            with self._graph.inserting_after(self._images):
                self._number = self._graph.call_method("size", (self._images, 0))
        return self._number

    def _values(self, node: fx.Node, index: int) -> list[Any]:
        """The value of an input in each run; None if it depends on pixels."""
        given = node.args[index] if index < len(node.args) else None
        return [run.values.get(given) if isinstance(given, fx.Node) else None for run in self._runs]

    def _fixed(self, node: fx.Node, index: int) -> Any:
        """The value of an input, as a number or list, if it does not depend on the batch."""
        first, second = self._values(node, index)
        if not isinstance(first, Tensor) or not isinstance(second, Tensor):
            return None
        return first.tolist() if torch.equal(first, second) else None

    def _axis_of(self, node: fx.Node, name: str) -> int:
        return int(getattr(self._model.get_submodule(str(node.target)), name))

    def _to_shape(self, node: fx.Node) -> list[int] | None:
        """The shape of a node with -1 for the batch axis; None if several axes vary."""
        first, second = self._first.shapes[node], self._second.shapes[node]
        varying = [axis for axis, size in enumerate(first) if size != second[axis]]
        if self._sizes[0] == self._sizes[1]:
            varying = [0] if len(first) == 1 or _leads(first, second, self._sizes) else []
        shape = list(first)
        for axis in varying:
            shape[axis] = -1
        return shape if len(varying) <= 1 else None

    def _reshape(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        shape = self._to_shape(node)
        if shape is None:
            return None
        before = [run.shapes[source] for run in self._runs]
        if len(shape) == 2 and shape[0] == -1 and _leads(before[0], before[1], self._sizes):
            return self._graph.call_function(torch.flatten, (source, 1))
        return self._graph.call_method("reshape", (source, *shape))

    def _expand(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        shape = self._to_shape(node)
        return None if shape is None else self._graph.call_method("expand", (source, *shape))

    def _slice(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        starts, ends = self._fixed(node, 1), self._fixed(node, 2)
        if starts is None or ends is None:
            return None
        axes = self._fixed(node, 3) or list(range(len(starts)))
        steps = self._fixed(node, 4) or [1] * len(starts)
        if len(node.args) > 5 or min(steps) < 1:
            return None
        parts = [slice(None)] * len(self._first.shapes[source])
        for axis, *bounds in zip(axes, starts, ends, steps, strict=True):
            parts[axis] = slice(*bounds)
        return self._graph.call_function(operator.getitem, (source, tuple(parts)))

    def _gather(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        axis, index = self._axis_of(node, "_axis"), self._fixed(node, 1)
        if isinstance(index, int):
            return self._graph.call_method("select", (source, axis, index))
        indices, shapes = self._values(node, 1), [run.shapes[source] for run in self._runs]
        # Exporters write a view as a gather of all elements in order.
        in_order = all(
            isinstance(own, Tensor)
            and len(shape) == 1
            and torch.equal(own.flatten(), torch.arange(shape[0]))
            for own, shape in zip(indices, shapes, strict=True)
        )
        return self._reshape(node, source) if in_order else None

    def _split(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        parts, axis = self._fixed(node, 1), self._axis_of(node, "axis")
        return parts and self._graph.call_function(torch.split, (source, parts, axis))

    def _resize(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        module = self._model.get_submodule(str(node.target))
        module = getattr(module, "_resize", module)
        before, after = (self._first.shapes[each] for each in (source, node))
        mode = _RESIZE_MODES.get(str(module.onnx_mode))
        if mode is None or len(after) != 4:
            return None
        scales = self._fixed(node, 1 if kind_of(self._model, node) == "OnnxResizeV10" else 2)
        how: dict[str, Any] = {"size": after[2:]}
        # Scales that leave out a part of a pixel differ from the ratio of the sizes.
        if scales and any(a * by != b for a, by, b in zip(before, scales, after, strict=True)):
            how = {"scale_factor": tuple(scales[2:])}
        how |= {"mode": mode, "align_corners": module.align_corners}
        return self._graph.call_function(F.interpolate, (source,), how)

    def _pad(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        pads, values = self._fixed(node, 1), self._values(node, 2)
        value = 0.0 if values[0] is None else self._fixed(node, 2)
        if pads is None or value is None:
            return None
        dims = len(pads) // 2
        pairs = [[pads[axis], pads[axis + dims]] for axis in reversed(range(dims))]
        while pairs and pairs[-1] == [0, 0]:
            pairs.pop()
        mode = str(self._model.get_submodule(str(node.target)).mode)
        return self._graph.call_function(F.pad, (source, sum(pairs, []), mode, value))

    def _axis_by_axis(self, method: str, node: fx.Node, source: fx.Node) -> fx.Node | None:
        axes, squeezes = self._fixed(node, 1), method == "squeeze"
        if not axes:
            return None
        dims = len(self._first.shapes[source if squeezes else node])
        for axis in sorted((each % dims for each in axes), reverse=squeezes):
            source = self._graph.call_method(method, (source, axis))
        return source


def kind_of(model: nn.Module, node: fx.Node) -> str:
    """The class name of the module that a node calls."""
    called = model.get_submodule(str(node.target)) if node.op == "call_module" else None
    return type(called).__name__


def _leads(first: Sequence[int], second: Sequence[int], sizes: Sequence[int]) -> bool:
    """Whether shapes begin with the batch sizes."""
    return bool(first) and (first[0], second[0]) == tuple(sizes)
