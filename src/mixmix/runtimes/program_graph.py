"""The graph of an exported program, built from an allow-list of PyTorch's schema.

``torch.export.load`` imports, unpickles and evaluates parts of an archive. This reader evaluates
nothing: it knows the fields of the schema that describe a network of tensors, and builds a graph
with names of its own. Fields, kinds of arguments and operators that it does not know are refused.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from mixmix.errors import DataError
from mixmix.runtimes.program_fields import (
    fields,
    integer,
    name_of_tensor,
    name_of_value,
    option,
    options,
    text,
)
from mixmix.runtimes.program_operators import ASSERTIONS, find_operator
from mixmix.runtimes.program_tensors import DTYPES

__all__ = ["ProgramGraph"]

_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_STRIDED = 7
_POSITIONAL, _KEYWORD = 1, 2
# Modes such as "bilinear", and the equations of einsum.
_MODE = re.compile(r"[A-Za-z0-9_,.\-> ]{0,200}")
_INFINITE = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
_SIGNATURES = {
    "parameter": ("parameter_name", ()),
    "buffer": ("buffer_name", ("persistent",)),
    "tensor_constant": ("tensor_constant_name", ()),
}


class ProgramGraph:
    """The graph in a document ``models/model.json``.

    Args:
        content: the document.

    Attributes:
        graph: takes one batch and returns one tensor; weights are attributes of its module.
        inputs: sizes of each input; None for sizes that vary.
        outputs: sizes of each output.
        changes: whether running the program changes buffers or inputs.

    Raises:
        DataError: naming what the document contains that is unknown.
    """

    def __init__(self, content: Any) -> None:
        program = fields(
            content,
            *("graph_module", "opset_version", "range_constraints", "schema_version"),
            optional=("verifiers", "torch_version", "guards_code"),
        )
        module = fields(
            program["graph_module"],
            *("graph", "signature", "module_call_graph"),
            optional=("metadata", "treespec_namedtuple_fields"),
        )
        source = fields(
            module["graph"],
            *("inputs", "outputs", "nodes", "tensor_values", "sym_int_values", "sym_bool_values"),
            optional=("is_single_tensor_return", "custom_obj_values", "sym_float_values"),
        )
        if source.get("custom_obj_values"):
            raise DataError("custom objects")
        signature = fields(module["signature"], "input_specs", "output_specs")
        self.graph = fx.Graph()
        self._nodes: dict[str, fx.Node] = {}
        self._sizes = options(source["tensor_values"], "values")
        self.inputs = self._add_inputs(source["inputs"], signature["input_specs"])
        for node in source["nodes"]:
            self._add(
                fields(
                    node,
                    *("target", "inputs", "outputs", "metadata"),
                    optional=("is_hop_single_tensor_return", "name"),
                )
            )
        outputs, self.changes = self._find_outputs(source["outputs"], signature["output_specs"])
        self.outputs = [self._shape(name) for name in outputs]
        results = tuple(self._node(name) for name in outputs)
        self.graph.output(results[0] if len(results) == 1 else results)

    def _add_inputs(self, values: Any, specs: Any) -> list[tuple[int | None, ...]]:
        images = []
        for value, spec in zip(values, specs, strict=True):
            name = _tensor_name(value)
            kind, about = option(spec)
            if kind == "user_input":
                images.append(self._shape(name))
                node = self.graph.placeholder("images")
            elif kind in _SIGNATURES:
                field, others = _SIGNATURES[kind]
                target = name_of_tensor(fields(about, "arg", field, optional=others)[field])
                node = self.graph.create_node("get_attr", target, name="weight")
            else:
                raise DataError(f"an input of the kind {kind[:80]!r}")
            self._define(name, node)
        return images

    def _find_outputs(self, values: Any, specs: Any) -> tuple[list[str], bool]:
        kinds = [option(spec)[0] for spec in specs]
        pairs = zip(values, kinds, strict=True)
        return [_tensor_name(v) for v, k in pairs if k == "user_output"], bool(
            set(kinds) - {"user_output"}
        )

    def _shape(self, name: str) -> tuple[int | None, ...]:
        meta = options(self._sizes.get(name), "sizes")
        sizes = [option(each) for each in meta.get("sizes", ())]
        return tuple(integer(size) if kind == "as_int" else None for kind, size in sizes)

    def _define(self, name: str, node: fx.Node) -> None:
        if name in self._nodes:
            raise DataError(f"several values of the name {name[:80]!r}")
        self._nodes[name] = node

    def _node(self, name: Any) -> fx.Node:
        if name_of_value(name) not in self._nodes:
            raise DataError(f"the unknown value {name[:80]!r}")
        return self._nodes[name]

    def _add(self, node: Mapping[str, Any]) -> None:
        target = text(node["target"])
        if target in ASSERTIONS:
            return
        function = find_operator(target)
        if function is None:
            raise DataError(f"the operation {target[:80]!r}")
        args, kwargs = self._arguments(function, node["inputs"])
        hint = target.split(".")[-2 if isinstance(function, torch._ops.OpOverload) else -1]
        call = self.graph.create_node("call_function", function, args, kwargs, name=hint)
        outputs = [option(each) for each in node["outputs"]]
        if [kind for kind, _ in outputs] == ["as_tensors"]:
            outputs = [("as_tensor", each) for each in outputs[0][1]]
        elif len(outputs) == 1:
            self._define_output(*outputs[0], call)
            return
        for index, (kind, value) in enumerate(outputs):
            if kind != "as_none":
                part = self.graph.call_function(operator.getitem, (call, index))
                self._define_output(kind, value, part)

    def _define_output(self, kind: str, value: Any, node: fx.Node) -> None:
        if kind == "as_tensor":
            self._define(name_of_value(fields(value, "name")["name"]), node)
        elif kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            self._define(name_of_value(fields(value, "as_name")["as_name"]), node)
        elif kind != "as_none":
            raise DataError(f"an output of the kind {kind[:80]!r}")

    def _arguments(
        self, function: Callable[..., Any], inputs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, as PyTorch reads them."""
        given: dict[str, Any] = {}
        kinds: dict[str, Any] = {}
        for each in inputs:
            entry = fields(each, "name", "arg", optional=("kind",))
            name = text(entry["name"]) or f"_{len(given)}"
            given[name] = self._argument(*option(entry["arg"]))
            kinds[name] = entry.get("kind")
        if not isinstance(function, torch._ops.OpOverload):
            return tuple(given.values()), {}
        schema = function._schema.arguments
        unknown = sorted(set(given) - {each.name for each in schema})
        if unknown:
            raise DataError(f"the argument {unknown[0][:80]!r} of {function}")
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for each in schema:
            if each.name not in given:
                continue
            required = not each.has_default_value() and not each.kwarg_only
            positional = kinds[each.name] == _POSITIONAL or (
                kinds[each.name] != _KEYWORD and required
            )
            if positional:
                args.append(given[each.name])
            else:
                kwargs[each.name] = given[each.name]
        return tuple(args), kwargs

    def _argument(self, kind: str, value: Any) -> Any:
        """The value of an argument of one of the kinds that tensor operations take."""
        if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
            own, number = option(value)
            return self._node(number) if own == "as_name" else _number(own, number)
        if kind in ("as_tensor", "as_optional_tensor"):
            if kind == "as_optional_tensor":
                kind, value = option(value)
            return None if kind == "as_none" else self._node(fields(value, "name")["name"])
        if kind == "as_tensors":
            return [self._node(fields(each, "name")["name"]) for each in value]
        if kind == "as_optional_tensors":
            return [self._argument("as_optional_tensor", each) for each in value]
        if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
            return [self._argument(kind[:-1], each) for each in value]
        if kind in ("as_ints", "as_floats", "as_bools"):
            return [_number(kind[:-1], each) for each in value]
        return _constant(kind, value)


def _tensor_name(value: Any) -> str:
    kind, tensor = option(value)
    if kind != "as_tensor":
        raise DataError(f"an input or output of the kind {kind[:80]!r}, expected a tensor")
    return name_of_value(fields(tensor, "name")["name"])


def _number(kind: str, value: Any) -> int | float | bool:
    if kind == "as_bool" and isinstance(value, bool):
        return value
    if kind == "as_int":
        return integer(value)
    if kind == "as_float" and isinstance(value, str) and value in _INFINITE:
        return _INFINITE[value]
    if kind == "as_float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise DataError(f"the number {str(value)[:80]!r} of the kind {kind[:80]!r}")


def _constant(kind: str, value: Any) -> Any:
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_float", "as_bool"):
        return _number(kind, value)
    if kind == "as_string" and _MODE.fullmatch(text(value)):
        return value
    if kind == "as_scalar_type" and integer(value) in DTYPES:
        return DTYPES[value]
    if kind == "as_memory_format" and integer(value) in _FORMATS:
        return _FORMATS[value]
    if kind == "as_layout" and value == _STRIDED:
        return torch.strided
    if kind == "as_device":
        return torch.device("cpu")  # whichever it was exported on
    raise DataError(f"the argument {str(value)[:80]!r} of the kind {kind[:80]!r}")
