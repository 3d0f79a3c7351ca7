"""Safety check of exported programs before PyTorch loads them.

``torch.export.load`` reads most tensors as plain bytes, but unpickles some entries of an archive
without restrictions, and evaluates expressions of sizes as Python code. Programs of vision networks
need neither, so archives with either are rejected.
"""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mixmix.errors import DataError, first_line

__all__ = ["check_program"]

_PLAIN_RECORDS = re.compile(
    r"models/[^/]+\.json|data/(weights|constants)/[^/]+|data/sample_inputs/[^/]+\.pt|extra/.*"
    r"|archive_format|archive_version|byteorder|\.data/.*|version"
)
_OPERATIONS = re.compile(
    # from_file reads any file of the machine.
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+"
    r"|_operator\.(getitem|add|sub|mul|neg|pow|floordiv|truediv|mod|and_|eq|ne|lt|le|gt|ge)"
    r"|math\.\w+|torch\.sym_\w+"
)
_QUANTIZED = re.compile(_OPERATIONS.pattern + r"|torch\.ops\.quantized_decomposed\.\w+\.\w+")
_EXPRESSIONS = (
    *(ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
_FUNCTIONS = {
    *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Min", "Max", "Mod"),
    *("FloorDiv", "CeilDiv", "CleanDiv", "PythonMod", "ModularIndexing", "IntTrueDiv"),
    *("ToFloat", "CeilToInt", "FloorToInt", "TruncToInt", "Where", "Eq", "Ne", "Lt", "Le"),
    *("Gt", "Ge", "And", "Or", "Not", "floor", "ceiling", "Abs"),
}


def check_program(path: Path, *, quantized: bool = False) -> None:
    """Check that an archive contains only a graph of PyTorch's operations and plain tensors.

    Args:
        path: of the archive.
        quantized: allow ``quantized_decomposed`` operations as well.

    Raises:
        DataError: naming what else it contains.
    """
    try:
        from torch.export.pt2_archive import PT2ArchiveReader
    except ImportError as error:
        raise DataError(
            f"PyTorch {torch.__version__} cannot inspect {path}; install 2.8 or later"
        ) from error
    try:
        # The reader that torch.export.load uses, so that both see the same entries.
        with PT2ArchiveReader(str(path)) as reader:
            for problem in _problems(reader, _QUANTIZED if quantized else _OPERATIONS):
                raise DataError(
                    f"{path} contains {problem}; only graphs of PyTorch's own operations and plain "
                    "tensors are loaded: export the float network itself with torch.export.save"
                )
    except DataError:
        raise
    except Exception as error:  # the reader raises many kinds for a damaged archive
        raise DataError(
            f"{path} is not a program that torch.export.save of PyTorch 2.8 or later wrote: "
            f"{first_line(error)}"
        ) from error


def _problems(reader: Any, operations: re.Pattern[str]) -> Iterator[str]:
    names = reader.get_file_names()
    if len(set(names)) < len(names):
        yield "several entries of one name"
    for name in names:
        if not _PLAIN_RECORDS.fullmatch(name):
            yield f"{name}, which is neither graph nor tensor"
        if name.startswith("models/"):
            yield from _problems_of_graph(json.loads(reader.read_string(name)), operations)
        elif name.startswith("data/sample_inputs/"):
            yield from _problems_of_pickle(name, reader.read_bytes(name))
        elif re.fullmatch(r"data/(weights|constants)/[^/]*_config\.json", name):
            yield from _problems_of_tensors(json.loads(reader.read_string(name)))
        elif re.fullmatch(r"data/(weights|constants)/[^/]*\.pt", name):
            yield f"{name}, tensors of an older format"


def _problems_of_pickle(name: str, content: bytes) -> Iterator[str]:
    if content:
        try:
            torch.load(io.BytesIO(content), weights_only=True)
        except Exception:
            yield f"more than tensors in {name}"


def _problems_of_tensors(content: Any) -> Iterator[str]:
    for name, entry in content["config"].items():
        path = str(entry["path_name"])
        if entry["use_pickle"] is not False or not path.startswith(("weight_", "tensor_")):
            yield f"the pickled object {name}"


def _problems_of_graph(content: Any, operations: re.Pattern[str]) -> Iterator[str]:
    for key, value in _entries(content):
        if key in ("target", "as_operator") and isinstance(value, str):
            if not operations.fullmatch(value):
                yield f"the operation {value!r}"
        elif key == "expr_str" and not _is_plain(str(value)):
            yield f"the expression {str(value)[:80]!r}"


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value of a JSON document, at any depth."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part.items()
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)


def _is_plain(expression: str) -> bool:
    """Whether an expression consists of numbers, symbols and known functions.

    sympy evaluates strings as code, including string arguments of its functions.
    """
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
                return False
            if node.func.id == "Symbol":
                names |= {id(argument) for argument in node.args}
    return all(
        isinstance(node, _EXPRESSIONS)
        and not (
            isinstance(node, ast.Constant)
            and isinstance(node.value, (str, bytes))
            and not (id(node) in names and str(node.value).isidentifier())
        )
        for node in ast.walk(tree)
    )
