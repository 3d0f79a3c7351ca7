"""Options are read from fields: every command names fields that exist, with a text and a type."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import mixmix
from mixmix._settings import default_of
from mixmix.cli.app import COMMANDS
from mixmix.cli.fields import read_field
from mixmix.cli.options import Command, Given, command

LINES = """
    zoo.models! --zoo -z
    settings.num_images -n: Another help.
    settings.members_per_step
    settings.scales --scale
    distill.training.steps
    quantize.equalize
    quantize.per_channel --per-channel/--per-tensor
    prune.checkpoints
    spec.flip
    [Panel]
    blocks
    student
"""


def given(arguments: str) -> tuple[int, str, list[Given]]:
    seen: list[Given] = []
    result = CliRunner().invoke(
        command("try", LINES)(seen.append), arguments.split(), env={"COLUMNS": "200"}
    )
    return result.exit_code, result.output, seen


def test_only_what_was_given_is_passed_on_of_tables() -> None:
    code, _, seen = given("-z a")
    assert code == 0 and seen == [{"zoo": {"models": ["a"]}, "blocks": False, "student": ""}]
    arguments = "--zoo a,b -z c -n 256 --members-per-step none --scale 0.5 --scale 1 --steps 3"
    arguments += " --no-flip --no-equalize --per-tensor --checkpoints f/g --blocks --student x"
    code, output, seen = given(arguments)
    assert code == 0, output
    assert seen == [
        {
            "zoo": {"models": ["a", "b", "c"]},
            "settings": {"num_images": 256, "members_per_step": "none", "scales": [0.5, 1.0]},
            "distill": {"training": {"steps": 3}},
            "quantize": {"equalize": False, "per_channel": False},
            "spec": {"flip": False},
            "prune": {"checkpoints": "f/g"},
            "blocks": True,
            "student": "x",
        }
    ]


def test_help_has_texts_and_defaults_of_the_fields() -> None:
    code, output, _ = given("--help")
    text = " ".join(output.split())
    assert code == 0
    for part in (
        "Another help. [default: 256]",
        "Optimizer steps. [default: 6000]",
        "[default: per-channel]",
        "--equalize/--no-equalize",
        "Panel",
    ):
        assert part in text


@pytest.mark.parametrize(
    "arguments", ["", "-z a -n many", "-z a --members-per-step many", "-z a --wrong", "-z a more"]
)
def test_wrong_values_are_refused(arguments: str) -> None:
    assert given(arguments)[0] == 2


def test_a_field_that_vanished_is_an_error() -> None:
    for path in ("missing", "quantize.missing", "quantize.reconstruction.missing"):
        with pytest.raises(AttributeError, match="has no field 'missing'"):
            read_field("CommandLine", path, "mixmix.cli.command_line")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.path)
def test_fields_of_commands_exist(command: Command) -> None:
    options = [each for each in command.get_params(click.Context(command)) if each.name != "help"]
    assert options and all(getattr(each, "help", "") for each in options)
    assert len({each.name for each in options}) == len(options)
    assert f"Example: mixmix {command.path}" in str(command.help)


@pytest.mark.parametrize(
    "name",
    [
        *("AmortizedSettings", "Distill", "FineTune", "GeneratedImages", "MixedPrecision", "Prune"),
        *("PruneChannels", "Quantize", "QuantizeAware", "SynthesisSettings"),
    ],
)
def test_fields_are_read_as_python_reads_them(name: str) -> None:
    for path, default in defaults(getattr(mixmix, name)):
        if isinstance(default, int | float | str | type(None)):
            assert read_field(name, path, "mixmix").default == default


def defaults(settings: Any) -> list[tuple[str, Any]]:
    """Paths of fields and their defaults, those of training included."""
    found = []
    for each in dataclasses.fields(settings):
        default = default_of(each)
        if each.name in ("training", "reconstruction"):
            for inner in dataclasses.fields(default):
                found.append((f"{each.name}.{inner.name}", getattr(default, inner.name)))
        elif each.type in ("int", "float", "str", "bool", "int | None", "float | None"):
            found.append((each.name, default))
    return found


@pytest.mark.parametrize("words", ["--help", "quantize --help", "synthesize --wrong"])
def test_help_needs_no_torch(words: str) -> None:
    folder = Path(mixmix.__file__).parent
    program = f"""
import sys, types
package = types.ModuleType("mixmix")
package.__path__ = [{str(folder)!r}]
sys.modules["mixmix"] = package
from mixmix.cli.main import run
sys.argv = ["mixmix", *{words!r}.split()]
try:
    run()
except SystemExit as end:
    assert end.code == (0 if "--help" in sys.argv else 2)
    assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
