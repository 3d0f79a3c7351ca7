"""The command line. Errors are one line and exit code 2."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

import mixmix
from mixmix._display import printable
from mixmix.cli.command import Command
from mixmix.cli.commands import IMAGE_COMMANDS, OTHER_COMMANDS
from mixmix.cli.compression import COMPRESSION_COMMANDS
from mixmix.errors import ExportError, InputError, RankError
from mixmix.runtime.openmp import sleep_while_waiting

_TyperError: Any
try:
    from typer.exceptions import TyperException as _TyperError
except ImportError:  # older versions of typer are built on click
    from click import ClickException as _TyperError

__all__ = ["COMMANDS", "run"]

COMMANDS: tuple[Command, ...] = (*IMAGE_COMMANDS, *COMPRESSION_COMMANDS, *OTHER_COMMANDS)
_GROUPS = {"zoo": "List and show pretrained networks."}


def run() -> None:
    """Run the command line and exit."""
    sleep_while_waiting()
    warnings.showwarning = _show_warning
    try:
        code = _app(sys.argv[1:])(standalone_mode=False)
    except _TyperError as error:
        _fail(error.format_message())
    except (InputError, ExportError, KeyError) as error:
        _fail(str(error.args[0] if error.args else error))
    except RankError as error:
        from mixmix.runtime.distributed import is_main

        # The process that failed reports its own error; the main one reports for all others.
        _fail(str(error) if is_main() else "")
    except MemoryError:
        _fail("out of memory; use fewer images, a smaller batch size or a smaller model")
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; repeat the command to continue", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _app(arguments: Sequence[str]) -> typer.Typer:
    """All commands; only the one that is chosen has its options, which import their settings."""
    app = _group("Compress pretrained vision models without their data.")
    groups = {name: _group(help) for name, help in _GROUPS.items()}
    words = [each for each in arguments if not each.startswith("-")]
    for command in COMMANDS:
        path = command.name.split()
        target = groups[path[0]] if len(path) > 1 else app
        command.add_to(target, chosen=words[: len(path)] == path)
    for name, group in groups.items():
        app.add_typer(group, name=name)
    return app


def _group(help: str) -> typer.Typer:
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


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
