"""What a command is made of, and what most commands have in common."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from mixmix.cli.execute import Outcome, execute
from mixmix.cli.options import Fields, Given, Option, parameters
from mixmix.cli.run_file import Run

__all__ = [
    "DATA",
    "HELD_OUT",
    "JSON",
    "MODEL",
    "PROCESS",
    "ZOO",
    "Command",
    "do",
    "do_run",
    "file_out",
    "written_as",
]

_RUN = "mixmix.cli.run_file"

MODEL = Fields("model", f"{_RUN}:ModelSection", "reference --model -m")
ZOO = Fields("zoo", f"{_RUN}:ZooSection", "models --zoo -z, weights --weight")
DATA = Fields("images", f"{_RUN}:ImagesSection", "folders! --data")
HELD_OUT = Fields("images", f"{_RUN}:ImagesSection", "held_out")
PROCESS = Fields("run", f"{_RUN}:Run", "seed, device, threads")
JSON = Option("json", bool, "Print one JSON object.", False, ("--json",))


@dataclass(frozen=True)
class Command:
    """A command of ``mixmix``.

    Attributes:
        name: one word, or two for a command of a group.
        help: what it does: one sentence, and paragraphs with what else a reader has to know.
        example: a command that works.
        options: in the order in which the help lists them.
        call: does it.
    """

    name: str
    help: str
    example: str
    options: tuple[Fields | Option, ...]
    call: Callable[[Given], None]

    def add_to(self, app: typer.Typer, *, chosen: bool) -> None:
        """Add the command; its options, which take imports, only if it is the one to run."""
        function = parameters(self.options, self.call) if chosen else lambda: None
        text = f"{self.help}\n\nExample: {self.example}"
        app.command(self.name.split()[-1], help=text)(function)


def file_out(help: str) -> Option:
    """The option ``--out`` of commands that write one file."""
    return Option("out", Path, help, ...)


def written_as(out: Path, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Entries of a run that writes one file."""
    return {"out": str(out.parent), "export": {"file": out.name, **(settings or {})}}


def do(given: Given, sections: Mapping[str, Any], *, record: bool = True) -> Outcome:
    """Do the run of a command: its sections, and what all commands take.

    Args:
        given: the options of the command.
        sections: entries of the run, in plain types.
        record: whether the run is written beside its results.
    """
    return do_run(Run.from_dict({**given.fields("run"), **sections}), record=record)


def do_run(run: Run, *, record: bool = True) -> Outcome:
    """Do a run and write it beside its results, with the command that this is."""
    outcome = execute(run)
    if record and outcome.is_main:
        run.write(shlex.join(["mixmix", *sys.argv[1:]]))
    return outcome
