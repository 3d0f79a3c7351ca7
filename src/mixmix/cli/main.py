"""The command line: parse, call, print. Errors are one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from mixmix.cli.command import Command
from mixmix.cli.distill import DISTILL
from mixmix.cli.evaluate import EVALUATE, EXPORT
from mixmix.cli.prune import PRUNE
from mixmix.cli.quantize import QUANTIZE
from mixmix.cli.run import DEMO, RUN
from mixmix.cli.synthesize import GENERATE, SYNTHESIZE
from mixmix.cli.zoo import ZOO_LIST, ZOO_SHOW
from mixmix.errors import ExportError, InputError, RankError
from mixmix.runtime.openmp import sleep_while_waiting

__all__ = ["COMMANDS", "run"]

COMMANDS: tuple[Command, ...] = (
    RUN,
    SYNTHESIZE,
    GENERATE,
    QUANTIZE,
    PRUNE,
    DISTILL,
    EXPORT,
    EVALUATE,
    ZOO_LIST,
    ZOO_SHOW,
    DEMO,
)
_GROUPS = {"zoo": "List and show pretrained networks."}
# typer exports its usage errors one by one; this is what they all are.
_UsageError: Any = typer.BadParameter.__mro__[2]


def run() -> None:
    """Run the command line and exit."""
    sleep_while_waiting()
    try:
        code = _app(sys.argv[1:])(standalone_mode=False)
    except _UsageError as error:
        _fail(error.format_message())
    except (InputError, ExportError, KeyError) as error:
        _fail(str(error.args[0] if error.args else error))
    except RankError as error:
        _fail_with_others(str(error))
    except MemoryError:
        _fail("out of memory; use fewer images, a smaller batch size or a smaller model")
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; repeat the command to continue", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _app(arguments: Sequence[str]) -> typer.Typer:
    """All commands; only the one that is asked for has its options, which take imports."""
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


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _fail_with_others(message: str) -> None:
    from mixmix.runtime import distributed

    # The process that failed reports its own error; the main one reports for all others.
    if not distributed.is_main():
        sys.exit(2)
    _fail(message)


if __name__ == "__main__":
    run()
