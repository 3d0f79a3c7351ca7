"""The command line. Errors are one line and exit code 2."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import click
from rich_click import RichGroup

import mixmix
from mixmix._display import printable
from mixmix.cli.compression import distill, prune, quantize
from mixmix.cli.files import demo, evaluate, export, zoo_list, zoo_show
from mixmix.cli.images import generate, synthesize
from mixmix.cli.images import run as run_file
from mixmix.errors import ExportError, InputError, RankError
from mixmix.runtime.openmp import sleep_while_waiting

__all__ = ["COMMANDS", "app", "run"]

# In the order of the help.
COMMANDS = (
    *(run_file, synthesize, generate, quantize, prune, distill),
    *(export, evaluate, demo, zoo_list, zoo_show),
)
_HELP = {
    "text_markup": None,
    "text_emojis": False,
    "text_paragraph_linebreaks": "\n\n",
}
_GROUPS = {"zoo": "List and show pretrained networks."}


def run() -> None:
    """Run the command line and exit."""
    sleep_while_waiting()
    warnings.showwarning = _show_warning
    try:
        code = app().main(standalone_mode=False)
    except click.ClickException as error:
        _fail(error.format_message())
    except (InputError, ExportError, KeyError) as error:
        _fail(str(error.args[0] if error.args else error))
    except RankError as error:
        from mixmix.runtime.distributed import is_main

        # The process that failed reports its own error; the main one reports for all others.
        _fail(str(error) if is_main() else "")
    except MemoryError:
        _fail("out of memory; use fewer images, a smaller batch size or a smaller model")
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; repeat the command to continue", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


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


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, *args: Any, **kwargs: Any
) -> None:
    """Print warnings of mixmix as one line; those of other packages are for their authors."""
    if Path(filename).is_relative_to(Path(mixmix.__file__).parent):
        print("warning: " + printable(str(message)), file=sys.stderr)


def _fail(message: str) -> None:
    if message:
        print("error: " + printable(message), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    run()
