"""The command line. Errors are one line and exit code 2; signals end with 128 + their number."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from mixmix.cli.streams import open_closed_streams, silence_full_streams, writes_of_progress
from mixmix.errors import ExportError, InputError, RankError, first_line, is_out_of_memory

__all__ = ["run"]

_BROKEN_PIPE = 128 + 13  # SIGPIPE, which Windows does not have


class _Terminated(BaseException):
    """The process was asked to end, by SIGTERM."""


def run() -> None:
    """Run the command line and exit."""
    handler, stream = None, sys.stderr
    try:
        # First, so that an interrupt while modules are imported is one line, too.
        with suppress(ValueError):  # in other threads, there are no signals
            handler = signal.signal(signal.SIGTERM, _terminate)
        open_closed_streams()
        sys.stderr = writes_of_progress(sys.stderr)
        code = _run(sys.argv[1:])
        _flush()
    except KeyboardInterrupt:
        _end("interrupted; repeat the command to continue", 128 + signal.SIGINT)
    except _Terminated:
        _end("terminated; repeat the command to continue", 128 + signal.SIGTERM)
    except BrokenPipeError:
        # Whoever reads the output has seen enough, as "head" has.
        _end("", _BROKEN_PIPE)
    finally:
        sys.stderr = stream
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    from mixmix.runtime.openmp import sleep_while_waiting

    sleep_while_waiting()
    try:
        from mixmix.cli.app import app

        code = app(arguments)(standalone_mode=False)
    except BrokenPipeError:
        raise
    except (InputError, ExportError, KeyError) as error:
        _fail(str(error.args[0] if error.args else error))
    except RankError as error:
        from mixmix.runtime.distributed import is_main

        # The process that failed reports its own error; the main one reports for all others.
        _fail(str(error) if is_main() else "")
    except Exception as error:
        if _is_of_typer(error):
            _fail(error.format_message())  # type: ignore[attr-defined]
        if type(error).__name__ == "Abort":  # typer turns an interrupt into it
            raise KeyboardInterrupt from error
        if is_out_of_memory(error):
            _fail(
                f"out of memory ({first_line(error)}); use a smaller batch size (--batch-size), "
                "--memory-gib, fewer images or a smaller model. Finished files are kept: repeat "
                "the command to continue"
            )
        if isinstance(error, OSError):
            named = "" if error.filename is None else f"{error.filename}: "
            _fail(
                f"{named}{error.strerror or error}; finished files are kept: fix this and repeat "
                "the command to continue"
            )
        raise
    return code if isinstance(code, int) else 0


def _is_of_typer(error: Exception) -> bool:
    kind: Any
    try:
        from typer.exceptions import TyperException as kind
    except ImportError:  # older versions of typer are built on click
        from click import ClickException as kind
    return isinstance(error, kind)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while files are closed
    raise _Terminated


def _flush() -> None:
    """Write what was printed, while an error can still be reported."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _cannot_print(error)


def _cannot_print(error: OSError) -> NoReturn:
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
    _end(f"error: cannot write to standard output: {reason}; all files are written", 2)


def _fail(message: str) -> NoReturn:
    _end("error: " + " ".join(message.split()) if message else "", 2)


def _end(message: str, code: int) -> NoReturn:
    """Print a line on standard error and end."""
    if message:
        print(message, file=sys.stderr)
    silence_full_streams()
    sys.exit(code)


if __name__ == "__main__":
    run()
