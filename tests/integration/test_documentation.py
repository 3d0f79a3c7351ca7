"""The README and the pages under docs: code compiles, names, options, links and files exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

import mixmix
from mixmix.cli.app import app
from mixmix.cli.run_file import Run

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Fenced blocks, indented ones included; ``<!-- illustrative -->`` above one leaves it out."""
    pattern = rf"(<!-- illustrative -->\n)?^( *)```{language}\n(.*?)^ *```"
    found = re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [
        "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True))
        for illustrative, indent, code in found
        if not illustrative
    ]


def cases(language: str) -> list[Any]:
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language), start=1)
    ]


def imported(tree: ast.AST) -> Iterator[tuple[str, Any]]:
    """What the block imports from mixmix, by the name it has there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mixmix":
                    importlib.import_module(alias.name)
                    yield "mixmix", mixmix
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mixmix":
            home = mixmix if node.module == "mixmix" else importlib.import_module(str(node.module))
            for alias in node.names:
                yield alias.asname or alias.name, getattr(home, alias.name)


def resolved(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an expression such as ``mixmix.compress`` names, or None if it is not mixmix's."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        home = resolved(node.value, names)
        return None if home is None else getattr(home, node.attr)
    return None


@pytest.mark.parametrize("block", cases("python"))
def test_python_names_what_there_is(block: str) -> None:
    tree = ast.parse(block)
    names = {"mixmix": mixmix, **{name: getattr(mixmix, name) for name in mixmix.__all__}}
    names |= dict(imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolved(node, names)  # an AttributeError if it is not there
        if isinstance(node, ast.Call):
            function = resolved(node.func, names)
            if inspect.isfunction(function) or dataclasses.is_dataclass(function):
                given = [keyword.arg for keyword in node.keywords if keyword.arg]
                _check_keywords(function, given)


def _check_keywords(function: Any, given: list[str]) -> None:
    parameters = inspect.signature(function).parameters
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        unknown = sorted(set(given) - set(parameters))
        assert not unknown, f"{function.__name__} takes no {', '.join(unknown)}"


def commands(block: str) -> Iterator[list[str]]:
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for start in ("mixmix", ".venv/bin/mixmix"):
            if start in words:
                yield words[words.index(start) + 1 :]


@pytest.mark.parametrize("block", cases("bash"))
def test_commands_and_options_exist(block: str) -> None:
    for words in commands(block):
        command: Any = app()
        while hasattr(command, "commands"):
            name = words.pop(0)
            assert name in command.commands, f"no command {name!r}"
            command = command.commands[name]
        with click.Context(command) as context:
            options = command.get_params(context)
            known = {name for each in options for name in (*each.opts, *each.secondary_opts)}
            assert {word for word in words if re.match("--?[a-z]", word)} <= known
            command.parse_args(context, words)  # values of the right types, nothing missing


def test_the_run_can_be_read(tmp_path: Path) -> None:
    (block,) = blocks(ROOT / "docs" / "runs.md", "toml")
    (tmp_path / "run.toml").write_text(block, encoding="utf-8")
    run = Run.read(tmp_path / "run.toml")
    methods = [mixmix.Method.from_dict(method) for method in run.methods]
    assert [method.setting for method in methods] == ["W4A4"]


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"],
    ids=lambda page: page.stem,
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, target


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"([\w-]+\.md)", text[text.index("nav:") :])
    assert sorted(named) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_reference_lists_every_public_name() -> None:
    text, _, _ = (ROOT / "docs" / "api.md").read_text().partition("## For extensions")
    listed = re.findall(r"^::: mixmix\.(\S+)$", text, re.MULTILINE)
    names = [path.rpartition(".")[2] for path in listed]
    assert sorted(names) == sorted(set(mixmix.__all__) - {"__version__"})
    for path, name in zip(listed, names, strict=True):
        home, _, found = path.rpartition(".")
        if isinstance(getattr(mixmix, name), ModuleType):
            assert importlib.import_module(f"mixmix.{path}") is getattr(mixmix, name)
        elif home:
            module = importlib.import_module(f"mixmix.{home}")
            assert getattr(module, found) is getattr(mixmix, name)


def test_the_reference_lists_what_extensions_import() -> None:
    _, _, text = (ROOT / "docs" / "api.md").read_text().partition("## For extensions")
    listed = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    imports = re.findall(r"^from (mixmix\.\S+) import (.*)$", page, re.MULTILINE)
    used = {f"{home}.{name}" for home, names in imports for name in names.split(", ")}
    of_terms = {name for name in used if name.startswith("mixmix.synthesis.terms.")}
    assert {
        name for name in used - of_terms if name.rpartition(".")[2] not in mixmix.__all__
    } <= listed
    for path in listed:
        home, _, name = path.rpartition(".")
        assert getattr(importlib.import_module(home), name).__doc__
