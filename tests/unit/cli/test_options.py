"""Options are made from fields: every command names fields that exist, with a text and a type."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import mixmix
from mixmix.cli.app import COMMANDS
from mixmix.cli.command import Command
from mixmix.cli.options import Fields, Given, Option, attribute_docs, parameters


@dataclass(frozen=True)
class Inner:
    """Nested settings.

    Attributes:
        rate: of learning, in (0, 1] (see ``rates``).
    """

    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    """Settings.

    Attributes:
        count: how many ``things``; a second line
            continues the first.
        pattern: ``N:M``: of every M at most N.
        flip: whether to flip.
        limit: None takes all.
        inner: nested.

    Raises:
        InputError: never.
    """

    count: int = 3
    pattern: str = "2:4"
    flip: bool = True
    limit: int | None = 8
    scales: tuple[float, ...] = (1.0,)
    names: tuple[str, ...] = ()
    box: tuple[float, float] = (0.1, 0.2)
    folder: str | Path | None = None
    inner: Inner = field(default_factory=lambda: Inner(0.25))


OUTER = Fields(
    "outer",
    Outer,
    "count -n, pattern, flip, limit, scales --scale, names --name, box, folder, inner.rate",
)


def given(*arguments: str) -> tuple[int, str, list[Given]]:
    seen: list[Given] = []
    app = typer.Typer()
    options = (OUTER, Option("word", str, "A word.", "x"))
    app.command()(parameters(options, seen.append))
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.output, seen


def test_only_what_was_given_is_passed_on() -> None:
    code, _, seen = given()
    assert code == 0 and seen[0].fields("outer") == {} and seen[0]["word"] == "x"
    arguments = "-n 3 --no-flip --limit none --scale 0.5 --scale 1 --name a,b --name c"
    arguments += " --box 0.3 0.4 --folder f/g --rate 0.75 --word y"
    code, output, seen = given(*arguments.split())
    assert code == 0, output
    assert seen[0]["word"] == "y"
    assert seen[0].fields("outer") == {
        "count": 3,
        "flip": False,
        "limit": "none",
        "scales": [0.5, 1.0],
        "names": ["a", "b", "c"],
        "box": [0.3, 0.4],
        "folder": "f/g",
        "inner": {"rate": 0.75},
    }


def test_help_has_texts_and_defaults_of_the_fields() -> None:
    code, output, _ = given("--help")
    text = " ".join(output.split())
    assert code == 0
    for part in (
        "How many things; a second line continues the first. [default: 3]",
        "Of learning, in (0, 1]. [default: 0.25]",
        "'N:M': of every M",
        "[default: 8]",
        "--flip --no-flip",
    ):
        assert part in text


def test_what_is_no_number_is_refused() -> None:
    assert given("--limit", "many")[0] == 2
    assert given("--count", "many")[0] == 2


def test_a_field_that_vanished_is_an_error() -> None:
    for name in ("missing", "inner.missing"):
        with pytest.raises(AttributeError, match="has no field 'missing'; it has "):
            list(Fields("outer", Outer, name).options())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_fields_of_commands_exist(command: Command) -> None:
    names = []
    for each in command.options:
        for path, option in each.options() if isinstance(each, Fields) else [("", each)]:
            assert option.help, f"{path} has no entry below Attributes"
            names.append(option.name)
    assert len(set(names)) == len(names)
    assert command.example.startswith(f"mixmix {command.name}")
    parameters(command.options, command.call)


def test_docs_of_base_classes_count() -> None:
    class Child(Outer):
        """No section."""

    assert attribute_docs(Child)["flip"] == "Whether to flip."


def test_help_needs_no_torch() -> None:
    folder = Path(mixmix.__file__).parent
    program = f"""
import sys, types
package = types.ModuleType("mixmix")
package.__path__ = [{str(folder)!r}]
sys.modules["mixmix"] = package
from mixmix.cli.main import run
sys.argv = ["mixmix", "--help"]
try:
    run()
finally:
    assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_code_of_docstrings_is_quoted_where_it_has_a_colon() -> None:
    @dataclass(frozen=True)
    class Pattern:
        """A pattern.

        Attributes:
            pattern: ``unstructured``: anywhere, or ``N:M``; and ``M``: a number.
        """

        pattern: str = "2:4"

    expected = "unstructured: anywhere, or 'N:M'; and M: a number."
    assert attribute_docs(Pattern)["pattern"] == expected
