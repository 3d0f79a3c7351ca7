"""Fields of settings, read from the source of their classes: to import them takes seconds."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["SettingsField", "read_field"]

_Found = tuple[str, Any]  # a module and a node of its syntax tree


class SettingsField(NamedTuple):
    """Type, default (``...`` without one, None if it is computed) and documentation of a field."""

    type: Any
    default: Any
    help: str


def read_field(settings: str, path: str, module: str) -> SettingsField:
    """Read a field of a class that a module defines or imports.

    Args:
        settings: name of the class.
        path: name of the field, or path of a field of nested settings: ``training.steps``.
        module: where the class is found.

    Raises:
        AttributeError: if there is no such field.
    """
    name, *rest = path.split(".")
    owner = _definition(module, settings)
    home, node = _declaration(owner, name)
    home, value = _default(home, node.value)
    if rest:
        settings = ast.unparse(node.annotation).removesuffix(" | None")
        nested = read_field(settings, ".".join(rest), home)
        keywords = value.keywords if isinstance(value, ast.Call) else []
        changed = [each.value for each in keywords if each.arg == rest[0]]
        return nested._replace(default=ast.literal_eval(changed[0])) if changed else nested
    kind = eval(ast.unparse(node.annotation), {"Path": Path})
    docs = [entry for _, each in _bases(owner) for entry in [_docs(each).get(name)] if entry]
    default = ... if value is None else None
    if value is not None and not isinstance(value, ast.Call):
        default = ast.literal_eval(value)
    return SettingsField(kind, default, _as_help((docs or [""])[0]))


@cache
def _names(module: str) -> dict[str, Any]:
    """The statements that define or import the names of a module."""
    path = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: dict[str, Any] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            found.setdefault(node.name, node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mixmix"):
            found |= {alias.name: node for alias in node.names if alias.name not in found}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, node)
    return found


def _definition(module: str, name: str) -> _Found:
    """The statement that defines a name, in the module or in one that it imports from."""
    node = _names(module)[name]
    return (
        _definition(str(node.module), name) if isinstance(node, ast.ImportFrom) else (module, node)
    )


def _bases(owner: _Found) -> Iterator[_Found]:
    """A class and its bases in mixmix."""
    yield owner
    module, node = owner
    for base in map(ast.unparse, node.bases):
        if base in _names(module):
            yield from _bases(_definition(module, base))


def _declaration(owner: _Found, name: str) -> _Found:
    for module, node in _bases(owner):
        for each in node.body:
            if isinstance(each, ast.AnnAssign) and ast.unparse(each.target) == name:
                return module, each
    raise AttributeError(f"{owner[1].name} has no field {name!r}")


def _default(module: str, value: Any) -> _Found:
    """The expression of a default, behind ``field(...)`` and the name of a constant."""
    if isinstance(value, ast.Name):
        module, node = _definition(module, value.id)
        return _default(module, node.value) if isinstance(node, ast.Assign) else (module, None)
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {each.arg: each.value for each in value.keywords}
        return _default(module, given.get("default"))
    return module, value


def _docs(node: ast.ClassDef) -> dict[str, str]:
    """The entries below "Attributes:" in the docstring of a class."""
    text = (ast.get_docstring(node) or "").partition("Attributes:\n")[2]
    section = re.match(r"(?:(?: .*)?\n)*", text + "\n")
    body = textwrap.dedent(section.group()) if section else ""
    return {
        name: " ".join(entry.split())
        for name, entry in re.findall(r"^(\w+): (.*(?:\n +.*)*)", body, re.MULTILINE)
    }


def _as_help(text: str) -> str:
    """Text of a docstring for the terminal: without code marks and references to code."""
    text = re.sub(r" \(see [^)]*\)", "", text)
    if re.match(r"[a-z]+(?![\w:.`])", text):
        text = text[0].upper() + text[1:]
    return text.replace("``", "")
