"""What a command is made of, and what most commands have in common."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

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
    "command_line",
    "file_out",
    "run_of",
    "written_as",
]

_RUN = "mixmix.cli.run_file"

MODEL = Fields("model", f"{_RUN}:ModelSection", ("reference --model -m",))
ZOO = Fields("zoo", f"{_RUN}:ZooSection", ("models --zoo -z", "weights --weight"))
DATA = Fields("images", f"{_RUN}:ImagesSection", ("folders! --data",))
HELD_OUT = Fields("images", f"{_RUN}:ImagesSection", ("held_out",))
PROCESS = Fields("run", f"{_RUN}:Run", ("seed", "device", "threads"))
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


def written_as(out: Path) -> dict[str, Any]:
    """Entries of a run that writes one file."""
    return {"out": str(out.parent), "export": {"file": out.name}}


def run_of(given: Given, sections: Mapping[str, Any]) -> Run:
    """The run of a command: its sections, and what all commands take."""
    return Run.from_dict({**given.fields("run"), **sections})


def command_line() -> str:
    """This command, to be pasted into a shell."""
    return shlex.join(["mixmix", *sys.argv[1:]])
