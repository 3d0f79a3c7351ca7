"""Generated names for everything in an ONNX graph.

Converters to PyTorch turn names into attributes of modules and into Python source, so that a name
in a file could be code. Names of the file are kept by nobody: what is converted has other names.
"""

from __future__ import annotations

import onnx
import onnx.inliner

from mixmix.errors import InputError

__all__ = ["check_operations", "renamed"]

_DOMAINS = ("", "ai.onnx")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def check_operations(model: onnx.ModelProto, name: str) -> None:
    """Check that a graph without functions has float operations of ONNX itself, and no branches.

    Raises:
        InputError: naming the first other operation.
    """
    for node in model.graph.node:
        kind = node.op_type
        if kind in _QUANTIZED or kind.startswith("QLinear") or kind.endswith("Integer"):
            raise InputError(
                f"{name} is quantized ({kind}), and only float networks can be loaded; load the "
                "network that it was made from, or evaluate the file as it is: mixmix evaluate"
            )
        domain = "" if node.domain in _DOMAINS else node.domain
        if domain or not onnx.defs.has(kind):
            raise InputError(
                f"{name} has the operation {domain[:80] + '.' * bool(domain)}{kind[:80]}, which is "
                "not one of ONNX; export it without custom operations"
            )
        if any(each.HasField("g") or each.graphs for each in node.attribute):
            raise InputError(
                f"{name} has the operation {kind}, and branches and loops cannot be loaded; "
                "export the network for one path"
            )


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without names of the file, in place.

    Nodes are called ``conv_3``, after their operation, which is one of ONNX, and their position.
    """
    graph = model.graph
    values: dict[str, str] = {"": ""}

    def value(old: str) -> str:
        return values.setdefault(old, f"value_{len(values)}")

    for each in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        each.name = value(each.name)
        each.doc_string = ""
    for index, node in enumerate(graph.node):
        node.name, node.domain, node.doc_string = f"{node.op_type.lower()}_{index}", "", ""
        inputs, outputs = (
            [value(each) for each in node.input],
            [value(each) for each in node.output],
        )
        del node.input[:], node.output[:], node.metadata_props[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        for attribute in node.attribute:
            attribute.doc_string, attribute.t.name = "", ""
            if attribute.type != onnx.AttributeProto.TENSOR:
                attribute.ClearField("t")
    graph.name, graph.doc_string, model.doc_string = "network", "", ""
    model.producer_name, model.producer_version, model.domain = "", "", ""
    del model.metadata_props[:], graph.metadata_props[:], graph.quantization_annotation[:]
    version = next((each.version for each in model.opset_import if each.domain in _DOMAINS), 1)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", version))
    return model
