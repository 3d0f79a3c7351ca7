"""All commands of ``mixmix`` as one application."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from mixmix.cli.command import Command
from mixmix.cli.commands import IMAGE_COMMANDS, OTHER_COMMANDS
from mixmix.cli.compression import COMPRESSION_COMMANDS

__all__ = ["COMMANDS", "app"]

COMMANDS: tuple[Command, ...] = (*IMAGE_COMMANDS, *COMPRESSION_COMMANDS, *OTHER_COMMANDS)
_GROUPS = {"zoo": "List and show pretrained networks."}


def app(arguments: Sequence[str]) -> typer.Typer:
    """All commands; only the one that is chosen has its options, which import their settings."""
    whole = _group("Compress pretrained vision models without their data.")
    groups = {name: _group(help) for name, help in _GROUPS.items()}
    words = [each for each in arguments if not each.startswith("-")]
    for command in COMMANDS:
        path = command.name.split()
        target = groups[path[0]] if len(path) > 1 else whole
        command.add_to(target, chosen=words[: len(path)] == path)
    for name, group in groups.items():
        whole.add_typer(group, name=name)
    return whole


def _group(help: str) -> typer.Typer:
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
