"""Commands, and the way from their options to a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer

from mixmix.cli.execute import Outcome, execute
from mixmix.cli.options import Fields, Given, Option, parameters
from mixmix.cli.output import print_outcome
from mixmix.cli.run_file import ImagesSection, ModelSection, Run, ZooSection

__all__ = ["COMMON", "DATA", "HELD_OUT", "JSON", "MODEL", "ZOO", "Command", "do", "do_run", "out"]

MODEL = Fields("model", ModelSection, "reference --model -m")
ZOO = Fields("zoo", ZooSection, "models --zoo -z, weights --weight")
DATA = Fields("images", ImagesSection, "folders! --data")
HELD_OUT = Fields("images", ImagesSection, "held_out")
JSON = Option("json", bool, "Print one JSON object.", False, "--json")
COMMON = (Fields("run", Run, "seed, device, threads"), JSON)


def out(help: str) -> Option:
    """The option ``--out`` of commands that export one file."""
    return Option("out", Path, help, ...)


@dataclass(frozen=True)
class Command:
    """A command of ``mixmix``.

    Attributes:
        name: one word, or two for a command of a group.
        help: one sentence, optionally followed by paragraphs.
        example: a command that works.
        options: options in the order of the help.
        call: function that runs the command.
    """

    name: str
    help: str
    example: str
    options: tuple[Fields | Option, ...]
    call: Callable[[Given], object]

    def add_to(self, app: typer.Typer, *, chosen: bool) -> None:
        """Add the command, and its options, which import their settings, only if it is chosen."""
        function = parameters(self.options, self.call) if chosen else lambda: None
        text = f"{self.help}\n\nExample: {self.example}"
        app.command(self.name.split()[-1], help=text)(function)


def do(given: Given, **sections: Any) -> Outcome:
    """Execute the run that options describe, and print its results.

    Args:
        given: groups named like a section of the run set that section; ``out`` names the file to
            export.
        sections: further entries of the run, in plain types; tables are merged with those given.
    """
    content: dict[str, Any] = given.fields("run")
    content |= {
        each.name: given.fields(each.name) for each in fields(Run) if each.name in given.groups
    }
    if "out" in given.values:
        path: Path = given["out"]
        sections = {
            "out": str(path.parent),
            **sections,
            "export": {"file": path.name, **sections.get("export", {})},
        }
    for name, value in sections.items():
        is_table = isinstance(value, Mapping)
        content[name] = {**content.get(name, {}), **value} if is_table else value
    return do_run(Run.from_dict(content), as_json=given["json"])


def do_run(run: Run, *, as_json: bool, by_section: bool = False) -> Outcome:
    """Execute a run, write its file, and print its results."""
    outcome = execute(run)
    if outcome.is_main:
        if run.writes_files:
            run.write(shlex.join(["mixmix", *sys.argv[1:]]))
        print_outcome(outcome, as_json=as_json, by_section=by_section)
    return outcome
