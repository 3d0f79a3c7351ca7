"""All commands of ``mixmix`` as one application."""

from __future__ import annotations

import click
from rich_click import RichGroup

from mixmix._display import did_you_mean
from mixmix._version import __version__
from mixmix.cli.compress import compress
from mixmix.cli.compression import distill, prune, quantize
from mixmix.cli.files import compare, demo, evaluate, export, zoo_list, zoo_show
from mixmix.cli.images import generate, synthesize
from mixmix.cli.images import run as run_file
from mixmix.cli.inspect import doctor, inspect
from mixmix.cli.sweep import sweep

__all__ = ["COMMANDS", "app"]

# In the order of the help.
COMMANDS = (
    *(compress, run_file, synthesize, generate, quantize, prune, distill, sweep),
    *(export, inspect, evaluate, compare, demo, doctor, zoo_list, zoo_show),
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

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and not cmd_name.startswith("-"):
            near = did_you_mean(cmd_name, self.commands)
            known = "" if near else f"; known: {', '.join(self.commands)}"
            raise click.UsageError(f"No such command {cmd_name!r}{near or known}", ctx)
        return found


def app() -> RichGroup:
    """The group of all commands; they read their options when they are chosen."""
    top = _group("mixmix", "Compress pretrained vision models without their data.")
    top = click.version_option(__version__, "-V", "--version", message="mixmix %(version)s")(top)
    groups = {name: _group(name, help) for name, help in _GROUPS.items()}
    for command in COMMANDS:
        (groups[command.path.split()[0]] if " " in command.path else top).add_command(command)
    for group in groups.values():
        top.add_command(group)
    return top


def _group(name: str, help: str) -> RichGroup:
    settings = {"help_option_names": ["-h", "--help"], "rich_help_config": _HELP}
    return _Group(name=name, help=help, no_args_is_help=True, context_settings=settings)
