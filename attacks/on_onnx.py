"""Attacks by ONNX files."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from attacks.attack import Commands, attack
from attacks.networks import onnx_model, write_spec


def _show(folder: Path, model: onnx.ModelProto | bytes) -> Commands:
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "m.onnx").write_bytes(content)
    write_spec(folder / "s.json", source="m.onnx")
    return [["zoo", "show", "s.json"]]


def _breakout(code: str) -> str:
    return f'x"), {code}, ("'


@attack("onnx", loads=True)
def node_names(folder: Path, code: str) -> Commands:
    """Names of nodes that close a string in generated source."""
    model = onnx_model()
    for node in model.graph.node:
        node.name = _breakout(code) + node.name
    return _show(folder, model)


@attack("onnx", loads=True)
def value_names(folder: Path, code: str) -> Commands:
    """Names of values, weights, inputs and outputs that are code."""
    model = onnx_model()
    names: dict[str, str] = {}
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.setdefault(v, f"{_breakout(code)}{v}\n{code}\n") for v in values]
    for each in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        each.name = names[each.name]
    return _show(folder, model)


@attack("onnx", loads=True)
def names_of_module_attributes(folder: Path, code: str) -> Commands:
    """Nodes named forward, __class__ and training."""
    model = onnx_model()
    for node, name in zip(
        model.graph.node, ("forward", "__class__", "training", "_modules", "eval"), strict=True
    ):
        node.name = name
    return _show(folder, model)


@attack("onnx")
def operator_name(folder: Path, code: str) -> Commands:
    """An operator whose name is code."""
    model = onnx_model()
    model.graph.node[1].op_type = _breakout(code)
    return _show(folder, model)


@attack("onnx")
def operator_domain(folder: Path, code: str) -> Commands:
    """A domain that is code."""
    model = onnx_model()
    model.graph.node[1].domain = _breakout(code)
    model.opset_import.append(helper.make_opsetid(_breakout(code), 1))
    return _show(folder, model)


@attack("onnx", loads=True)
def function_names(folder: Path, code: str) -> Commands:
    """A function of the file whose name and values are code."""
    model = onnx_model()
    name = _breakout(code)
    body = helper.make_node("Relu", [name + "x"], [name + "y"], name=name)
    model.functions.append(
        helper.make_function(name, name, [name + "x"], [name + "y"], [body], model.opset_import)
    )
    model.graph.node[1].op_type = model.graph.node[1].domain = name
    model.opset_import.append(helper.make_opsetid(name, 1))
    return _show(folder, model)


@attack("onnx", loads=True)
def metadata_and_documentation(folder: Path, code: str) -> Commands:
    """Documentation, producer and metadata that are code."""
    model = onnx_model()
    model.doc_string = model.producer_name = model.graph.doc_string = code
    for key in ("torch", "pkg.torch.onnx.original_node_name", code):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, code
    return _show(folder, model)


def _with_external(folder: Path, location: str, length: int = 64) -> Commands:
    model = onnx_model()
    tensor = model.graph.initializer[1]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return [*_show(folder, model), ["evaluate", "m.onnx"]]


@attack("onnx")
def external_absolute(folder: Path, code: str) -> Commands:
    """Weights in an absolute path."""
    return _with_external(folder, "/etc/passwd")


@attack("onnx")
def external_parent(folder: Path, code: str) -> Commands:
    """Weights in a parent folder."""
    return _with_external(folder, "../../../../etc/passwd")


@attack("onnx")
def external_windows(folder: Path, code: str) -> Commands:
    """Weights in an absolute path of Windows."""
    return _with_external(folder, "C:\\Windows\\win.ini")


@attack("onnx")
def external_link(folder: Path, code: str) -> Commands:
    """Weights behind a symbolic link."""
    os.symlink("/etc/passwd", folder / "w.bin")
    return _with_external(folder, "w.bin")


@attack("onnx")
def external_device(folder: Path, code: str) -> Commands:
    """Weights from a device that never ends."""
    os.symlink("/dev/zero", folder / "w.bin")
    return _with_external(folder, "w.bin")


@attack("onnx")
def external_linked_folder(folder: Path, code: str) -> Commands:
    """Weights in a folder that is a symbolic link."""
    os.symlink("/etc", folder / "w")
    return _with_external(folder, "w/passwd")


@attack("onnx")
def external_too_short(folder: Path, code: str) -> Commands:
    """Weights that need more bytes than there are."""
    (folder / "w.bin").write_bytes(bytes(8))
    return _with_external(folder, "w.bin", 2**40)


@attack("onnx")
def values_of_terabytes(folder: Path, code: str) -> Commands:
    """A constant of terabytes from a few bytes."""
    model = onnx_model()
    shape = helper.make_tensor("big", TensorProto.INT64, [4], [2**14] * 4)
    model.graph.initializer.append(shape)
    nodes = [
        helper.make_node("ConstantOfShape", ["big"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["none"], keepdims=0),
        helper.make_node("Add", ["images", "none"], ["first"]),
        *model.graph.node,
    ]
    nodes[3].input[0] = "first"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _show(folder, model)


@attack("onnx")
def values_of_terabytes_from_sizes(folder: Path, code: str) -> Commands:
    """A value of terabytes, whose size is computed from that of the images."""
    model = onnx_model()
    for name, number in (("k", 10**9), ("zero", 0), ("one", 1)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [], [number]))
    nodes = [
        helper.make_node("Shape", ["images"], ["sizes"]),
        helper.make_node("ReduceProd", ["sizes"], ["count"], keepdims=0),
        helper.make_node("Mul", ["count", "k"], ["many"]),
        helper.make_node("Range", ["zero", "many", "one"], ["range"]),
        helper.make_node("ReduceSum", ["range"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["none"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["images", "none"], ["first"]),
        *model.graph.node,
    ]
    nodes[7].input[0] = "first"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return _show(folder, model)


@attack("onnx")
def functions_that_double(folder: Path, code: str) -> Commands:
    """Functions that call each other twice, sixty levels deep."""
    model = onnx_model()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    for level in range(60):
        op = ("Relu", "") if level == 0 else (f"f{level - 1}", "f")
        nodes = [
            helper.make_node(op[0], ["x"], ["m"], domain=op[1]),
            helper.make_node(op[0], ["m"], ["y"], domain=op[1]),
        ]
        model.functions.append(helper.make_function("f", f"f{level}", ["x"], ["y"], nodes, opsets))
    model.graph.node[1].op_type, model.graph.node[1].domain = "f59", "f"
    model.opset_import.append(opsets[1])
    return _show(folder, model)


@attack("onnx")
def weights_larger_than_the_file(folder: Path, code: str) -> Commands:
    """A weight whose shape claims more bytes than it has."""
    model = onnx_model()
    model.graph.initializer[0].dims[:] = [2**20, 3, 3, 3]
    return _show(folder, model)


@attack("onnx")
def functions_that_double_in_branches(folder: Path, code: str) -> Commands:
    """Functions that call each other twice in branches, forty levels deep."""
    model = onnx_model()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    for level in range(40):
        op = ("Relu", "") if level == 0 else (f"f{level - 1}", "f")
        branch = helper.make_graph(
            [helper.make_node(op[0], [a], [b], domain=op[1]) for a, b in ("xm", "mz")],
            "branch",
            [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        )
        nodes = [
            helper.make_node("Constant", [], ["c"], value=true),
            helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
        ]
        model.functions.append(helper.make_function("f", f"f{level}", ["x"], ["y"], nodes, opsets))
    model.graph.node[1].op_type, model.graph.node[1].domain = "f39", "f"
    model.opset_import.append(opsets[1])
    return _show(folder, model)
