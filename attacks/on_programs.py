"""Attacks by exported programs (.pt2)."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.attack import Commands, attack
from attacks.networks import in_document, program, rewritten, write_spec


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self.code,)


def _read(folder: Path, content: bytes) -> Commands:
    (folder / "m.pt2").write_bytes(content)
    write_spec(folder / "s.json", source="m.pt2")
    return [["zoo", "show", "s.json"], ["evaluate", "m.pt2"]]


def _edited(folder: Path, edit: Callable[[Any], object]) -> Commands:
    return _read(folder, in_document(edit))


@attack("pt2")
def guards(folder: Path, code: str) -> Commands:
    """Guards that are code."""
    return _edited(folder, lambda d: d.update(guards_code=[f"({code}, True)[1]"]))


@attack("pt2")
def argument_names(folder: Path, code: str) -> Commands:
    """Names of arguments that end a signature."""

    def edit(document: Any) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["forward_arg_names"] = [f'x={code}, y="""):#']

    return _edited(folder, edit)


@attack("pt2")
def expression(folder: Path, code: str) -> Commands:
    """A size that is code."""

    def edit(document: Any) -> None:
        sizes = document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = code

    return _edited(folder, edit)


@attack("pt2")
def expression_in_a_string(folder: Path, code: str) -> Commands:
    """A size with code in a string, which sympy evaluates."""

    def edit(document: Any) -> None:
        sizes = document["graph_module"]["graph"]["tensor_values"]["input"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"Max({code!r}, 2)"

    return _edited(folder, edit)


def _with_target(folder: Path, target: str) -> Commands:
    def edit(document: Any) -> None:
        document["graph_module"]["graph"]["nodes"][2]["target"] = target

    return _edited(folder, edit)


@attack("pt2")
def operation_of_torch(folder: Path, code: str) -> Commands:
    """An operation that is any function of torch."""
    return _with_target(folder, "torch.hub.load")


@attack("pt2")
def operation_of_operator(folder: Path, code: str) -> Commands:
    """An operation that calls its arguments."""
    return _with_target(folder, "_operator.call")


@attack("pt2")
def operation_that_reads_files(folder: Path, code: str) -> Commands:
    """An operation that reads files."""
    return _with_target(folder, "torch.ops.aten.from_file.default")


@attack("pt2")
def operation_of_an_extension(folder: Path, code: str) -> Commands:
    """An operation of a registered extension."""
    return _with_target(folder, "#namespace:operation")


@attack("pt2")
def operation_of_higher_order(folder: Path, code: str) -> Commands:
    """An operation that compiles source."""
    return _with_target(folder, "torch.ops.higher_order.triton_kernel_wrapper_mutation")


@attack("pt2")
def name_of_a_value(folder: Path, code: str) -> Commands:
    """A name of a value that is code."""
    old, new = b'"relu"', json.dumps(f"x = {code}#").encode()
    return _read(
        folder,
        rewritten(program(), lambda n, c: c.replace(old, new) if n.startswith("models/") else c),
    )


@attack("pt2")
def name_of_a_weight(folder: Path, code: str) -> Commands:
    """A name of a weight that is code."""
    old, new = b'"0.weight"', json.dumps(f'0"), {code}, ("').encode()
    return _read(folder, rewritten(program(), lambda n, c: c.replace(old, new)))


@attack("pt2")
def name_of_an_attribute(folder: Path, code: str) -> Commands:
    """A weight named __class__."""
    return _read(
        folder, rewritten(program(), lambda n, c: c.replace(b'"0.weight"', b'"__class__.x"'))
    )


@attack("pt2")
def unknown_field(folder: Path, code: str) -> Commands:
    """A field that no version knows."""
    return _edited(folder, lambda d: d["graph_module"].update(source_code=code))


@attack("pt2", loads=True)
def metadata(folder: Path, code: str) -> Commands:
    """Metadata of nodes that is code."""

    def edit(document: Any) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            node["metadata"] = {"source_fn_stack": f"a,{code}", "nn_module_stack": code}

    return _edited(folder, edit)


@attack("pt2")
def custom_object(folder: Path, code: str) -> Commands:
    """An input that is a pickled object."""

    def edit(document: Any) -> None:
        graph = document["graph_module"]["graph"]
        graph["custom_obj_values"] = {"x": {"name": "x", "class_fqn": code}}

    return _edited(folder, edit)


@attack("pt2")
def pickled_sample_inputs(folder: Path, code: str) -> Commands:
    """Example inputs that are a pickle."""
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(((torch.zeros(1), Payload(code)), {}), buffer)
    return _read(
        folder,
        rewritten(program(), lambda n, c: buffer.getvalue() if "sample_inputs" in n else c),
    )


def _with_config(folder: Path, old: bytes, new: bytes, **added: bytes) -> Commands:
    entries = {f"data/weights/{name}": content for name, content in added.items()}
    return _read(
        folder,
        rewritten(
            program(),
            lambda n, c: c.replace(old, new) if n.endswith("weights_config.json") else c,
            entries,
        ),
    )


@attack("pt2")
def pickled_weights(folder: Path, code: str) -> Commands:
    """Weights that ask to be unpickled."""
    return _with_config(folder, b'"use_pickle": false', b'"use_pickle": true')


@attack("pt2")
def opaque_object(folder: Path, code: str) -> Commands:
    """A constant that is a pickle."""
    return _with_config(
        folder, b'"weight_0"', b'"opaque_obj_0"', opaque_obj_0=pickle.dumps(Payload(code))
    )


@attack("pt2")
def older_weights(folder: Path, code: str) -> Commands:
    """Weights in the older, pickled format."""
    added = {"data/weights/model.pt": pickle.dumps(Payload(code))}
    return _read(folder, rewritten(program(), lambda n, c: c, added))


@attack("pt2")
def path_of_weights(folder: Path, code: str) -> Commands:
    """Weights in another folder."""
    return _with_config(folder, b'"weight_0"', b'"../../../etc/passwd"')


@attack("pt2")
def weights_beyond_their_bytes(folder: Path, code: str) -> Commands:
    """A weight whose strides reach beyond its bytes."""
    return _with_config(folder, b'{"as_int": 27}', b'{"as_int": 99999999}')


@attack("pt2")
def compiled_code(folder: Path, code: str) -> Commands:
    """A compiled library."""
    added = {"data/aotinductor/model/x.so": b"\x7fELF"}
    return _read(folder, rewritten(program(), lambda n, c: c, added))


@attack("pt2")
def second_model(folder: Path, code: str) -> Commands:
    """A second model beside the first one."""
    added = {"models/other.json": b"{}"}
    return _read(folder, rewritten(program(), lambda n, c: c, added))


@attack("pt2")
def bomb(folder: Path, code: str) -> Commands:
    """Compressed entries."""
    return _read(folder, rewritten(program(), lambda n, c: c, compression=zipfile.ZIP_DEFLATED))


@attack("pt2")
def nested_document(folder: Path, code: str) -> Commands:
    """A document nested 100,000 levels deep."""
    deep = b"[" * 100_000 + b"]" * 100_000
    return _read(folder, rewritten(program(), lambda n, c: deep if n.startswith("models/") else c))


@attack("pt2")
def sizes_of_terabytes(folder: Path, code: str) -> Commands:
    """An operation whose result has terabytes."""

    def edit(document: Any) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            if node["target"].endswith("adaptive_avg_pool2d.default"):
                node["inputs"][1]["arg"] = {"as_ints": [2**20, 2**20]}

    return _edited(folder, edit)
