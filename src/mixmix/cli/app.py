"""All commands of ``mixmix`` as one application."""

from __future__ import annotations

import click
from rich_click import RichGroup

from mixmix.cli.compress import compress
from mixmix.cli.compression import distill, prune, quantize
from mixmix.cli.files import demo, evaluate, export, zoo_list, zoo_show
from mixmix.cli.images import generate, synthesize
from mixmix.cli.images import run as run_file

__all__ = ["COMMANDS", "app"]

# In the order of the help.
COMMANDS = (
    *(compress, run_file, synthesize, generate, quantize, prune, distill),
    *(export, evaluate, demo, zoo_list, zoo_show),
)
_HELP = {
    "text_markup": None,
    "text_emojis": False,
    "text_paragraph_linebreaks": "\n\n",
}
_GROUPS = {"zoo": "List and show pretrained networks."}


class _Group(RichGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def app() -> RichGroup:
    """The group of all commands; they read their options when they are chosen."""
    top = _group("mixmix", "Compress pretrained vision models without their data.")
    groups = {name: _group(name, help) for name, help in _GROUPS.items()}
    for command in COMMANDS:
        (groups[command.path.split()[0]] if " " in command.path else top).add_command(command)
    for group in groups.values():
        top.add_command(group)
    return top


def _group(name: str, help: str) -> RichGroup:
    settings = {"help_option_names": ["-h", "--help"], "rich_help_config": _HELP}
    return _Group(name=name, help=help, no_args_is_help=True, context_settings=settings)
