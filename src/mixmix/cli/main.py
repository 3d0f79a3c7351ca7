"""The command line. Errors are one line and exit code 2; signals end with 128 + their number."""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from mixmix._display import printable
from mixmix.cli.streams import open_closed_streams, silence_full_streams, writes_of_progress
from mixmix.errors import (
    ExportError,
    InputError,
    MixmixWarning,
    RankError,
    first_line,
    is_out_of_memory,
)

__all__ = ["run"]

_BROKEN_PIPE = 128 + 13  # SIGPIPE, which Windows does not have


# Lines of warnings that are printed.
_SHOWN: set[str] = set()
# Signals that asked the process to end.
_RECEIVED: list[int] = []


class _Terminated(BaseException):
    """The process was asked to end, by SIGTERM."""


def run() -> None:
    """Run the command line and exit."""
    handlers: dict[int, Any] = {}
    stream = sys.stderr
    try:
        # First, so that an interrupt while modules are imported is one line, too.
        with suppress(ValueError):  # in other threads, there are no signals
            handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, _end_by_signal)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                handlers[signal.SIGINT] = signal.signal(signal.SIGINT, _end_by_signal)
        open_closed_streams()
        sys.stderr = writes_of_progress(sys.stderr)
        code = _run()
        _flush()
    except KeyboardInterrupt as error:
        said = str(error) or str(error.__cause__ or "")  # click raises another one
        _end(said or "interrupted; repeat the command to continue", 128 + signal.SIGINT)
    except _Terminated:
        _end("terminated; repeat the command to continue", 128 + signal.SIGTERM)
    except BrokenPipeError:
        # Whoever reads the output has seen enough, as "head" has.
        _end("", _BROKEN_PIPE)
    finally:
        sys.stderr = stream
        for number, handler in handlers.items():
            signal.signal(number, handler)
    sys.exit(code)


def _run() -> int:
    """Run the command of the command line and return its exit code."""
    import click

    from mixmix.runtime.openmp import sleep_while_waiting

    sleep_while_waiting()
    warnings.showwarning = _show_warning
    try:
        from mixmix.cli.app import app

        code = app().main(standalone_mode=False)
    except BrokenPipeError:
        raise
    except click.Abort as error:  # click turns an interrupt into it
        raise KeyboardInterrupt from error.__cause__
    except Exception as error:
        if _RECEIVED:  # code that a signal ends anywhere may raise an error of its own
            raise (KeyboardInterrupt if _RECEIVED[0] == signal.SIGINT else _Terminated) from None
        _fail(error.format_message() if isinstance(error, click.ClickException) else _text(error))
    return code if isinstance(code, int) else 0


def _text(error: Exception) -> str:
    """The line about an error."""
    if isinstance(error, InputError | ExportError):
        return str(error)
    if isinstance(error, RankError):
        from mixmix.runtime.distributed import is_main

        # The process that failed reports its own error; the main one reports for all others.
        return str(error) if is_main() else ""
    if is_out_of_memory(error):
        return (
            f"out of memory ({first_line(error)}); use a smaller batch size (--batch-size), "
            "--memory-gib, fewer images or a smaller model. Finished files are kept: repeat the "
            "command to continue"
        )
    if isinstance(error, OSError):
        named = "" if error.filename is None else f"{error.filename}: "
        return (
            f"{named}{error.strerror or error}; finished files are kept: fix this and repeat the "
            "command to continue"
        )
    if os.environ.get("MIXMIX_TRACEBACK"):
        raise error
    return (
        f"unexpected {type(error).__name__}: {first_line(error)}; this is a fault of mixmix: "
        "set MIXMIX_TRACEBACK=1, repeat the command and report what it prints"
    )


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, *args: Any, **kwargs: Any
) -> None:
    """Print warnings of mixmix as one line, once; those of other packages are for their authors."""
    from mixmix.runtime.distributed import is_main

    line = "warning: " + printable(str(message))
    if issubclass(category, MixmixWarning) and line not in _SHOWN and is_main():
        _SHOWN.add(line)
        print(line, file=sys.stderr)


def _end_by_signal(number: int, frame: FrameType | None) -> NoReturn:
    _RECEIVED.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
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
    _end("error: " + printable(message) if message else "", 2)


def _end(message: str, code: int) -> NoReturn:
    """Print a line on standard error and end."""
    if message:
        print(message, file=sys.stderr)
    silence_full_streams()
    sys.exit(code)


if __name__ == "__main__":
    run()
