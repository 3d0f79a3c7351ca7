"""Commands, whose options are fields of the settings that a command line sets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import click
from click.core import ParameterSource
from rich_click import RichCommand
from rich_click.rich_panel import RichOptionPanel, RichPanel
from rich_click.rich_parameter import RichArgument, RichOption

from mixmix.cli.fields import read_field
from mixmix.cli.run_file import NO_VALUE

__all__ = ["Command", "Given", "command"]

# A run in plain types, and further fields of CommandLine.
Given = dict[str, Any]

# A field, "!" if it is required, names other than --field, and a help other than the field's.
_LINE = re.compile(r"([\w.-]+)(!?)([^:]*)(?:: (.*))?")
_SHORT = {
    "COMMON": "seed\ndevice\nthreads\njson",
    "DEPLOYMENT": "export.with_preprocessing\nexport.layout\nexport.with_softmax",
    "NETWORK": """
[What the network does not specify]
spec.mean: Mean of the training images in [0, 1], such as 0.485,0.456,0.406 (ImageNet).
spec.std: Standard deviation of the training images, such as 0.229,0.224,0.225 (ImageNet).
spec.input_shape: Channels, height and width, such as 3,224,224.
spec.num_classes
class_file --classes
spec.label_set
spec.multi_label: An image may have several classes or none, so that each logit is for itself (sigmoid instead of softmax).
spec.flip: Mirrored images keep their class; --no-flip for text, digits, traffic signs and whatever tells left from right (default: names of classes and predictions decide).
""",  # noqa: E501
}


class Command(RichCommand):
    """A command of ``mixmix``.

    Attributes:
        path: its name, one word, or two for a command of a group.
        lines: its options (see ``command``).
        call: function that runs it.
    """

    def __init__(self, path: str, lines: str, call: Callable[[Given], object]) -> None:
        help = inspect.cleandoc(call.__doc__ or "")
        first: list[RichPanel[Any, Any]] = [RichOptionPanel(s) for s in ("Arguments", "Options")]
        short = help.partition("\n\n")[0]
        super().__init__(name=path.split()[-1], help=help, short_help=short, panels=first)
        self.path, self.lines, self.call = path, lines, call

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The options, read at the first use."""
        panel = "Options"
        text = self.lines
        for word, options in _SHORT.items():
            text = text.replace(word, options)
        for line in [] if self.params else filter(None, map(str.strip, text.splitlines())):
            if line.startswith("["):
                panel = line.strip("[]")
            else:
                self.params.append(_parameter(line, panel))
        return super().get_params(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; explains numbers with spaces between them."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if re.search(r"unexpected extra arguments? \([-\d., ]+\)", error.message):
                hint = "; write several numbers with commas, such as 0.5,0.5,0.5"
                raise click.UsageError(error.message + hint, ctx) from error
            raise

    def invoke(self, ctx: click.Context) -> None:
        """Run the command."""
        given: Given = {}
        for name, value in ctx.params.items():
            *parents, last = name.split(".")
            if parents and ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
                continue
            table = given
            for parent in parents:
                table = table.setdefault(parent, {})
            table[last] = _plain(value)
        self.call(given)


def command(path: str, lines: str) -> Callable[[Callable[[Given], object]], Command]:
    """Make a command of a function, whose docstring is the help.

    The function gets fields of ``CommandLine`` in plain types. Those in tables are present only if
    they were given on the command line.

    Args:
        path: name of the command, one word, or two for a command of a group.
        lines: the options. Each line has a field of ``CommandLine``, followed by an exclamation
            mark if it is required, by names of the option other than ``--field`` (one without
            dashes is an argument), and by a colon and the help if it is not the documentation of
            the field. ``[PANEL]`` is a heading, COMMON the options of commands that compute,
            DEPLOYMENT those of files that others run, and NETWORK those that complete the spec of a
            network.
    """
    return lambda call: Command(path, lines, call)


def _parameter(line: str, panel: str) -> click.Parameter:
    """The option that a line describes, as click has it."""
    match = _LINE.fullmatch(line)
    assert match is not None, line
    path, required, declared, help = match.groups()
    field, names = read_field("CommandLine", path, "mixmix.cli.command_line"), declared.split()
    details: dict[str, Any] = {"help": help or field.help, "panel": panel}
    if required:
        details["required"] = True
    elif field.default not in (None, (), ...):
        is_shown = field.default != "" and "(default: " not in details["help"]
        details |= {"default": field.default, "show_default": is_shown}
    parameter: click.Parameter
    if names and not names[0].startswith("-"):
        parameter = RichArgument(
            names, **details | {"panel": "Arguments", "metavar": names[0].upper()}
        )
    else:
        if not any(name.startswith("--") for name in names):
            words = path.split(".")[-1].replace("_", "-")
            switch = f"/--no-{words}" if field.type in (bool | None,) else ""
            names.insert(0, f"--{words}{switch}")
        parameter = RichOption(names, **details, **_parsing(field.type, field.default))
    parameter.name = path
    return parameter


def _plain(value: Any) -> Any:
    """A value in plain types; text in lists is split at commas."""
    if not isinstance(value, tuple):
        return value
    parts = [each.split(",") if isinstance(each, str) else each for each in value]
    return [each for part in parts for each in (part if isinstance(part, list) else [part])]


def _parsing(kind: Any, default: Any) -> dict[str, Any]:
    """How click parses an option of a type."""
    kinds = [each for each in get_args(kind) if each not in (NoneType, ...)]
    if get_origin(kind) is tuple:
        listed = _Numbers(kinds[0]) if kinds[0] in (int, float) else kinds[0]
        return {"type": listed, "multiple": True}
    if kinds:
        kind = Path if Path in kinds else kinds[0]
        return _parsing(kind, None) if default in (None, ...) else {"type": _OrNone(kind)}
    return {"is_flag": True} if kind is bool else {"type": click.Path() if kind is Path else kind}


class _OrNone(click.ParamType[Any]):
    """Numbers or text, or ``none``."""

    def __init__(self, kind: Callable[[str], Any]) -> None:
        self._kind, self.name = kind, f"{kind.__name__}|{NO_VALUE}"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return value if value == NO_VALUE else self._kind(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor {NO_VALUE}", param, ctx)


class _Numbers(click.ParamType[Any]):
    """One number, or several with commas between them."""

    def __init__(self, kind: Callable[[str], Any]) -> None:
        self._kind, self.name = kind, "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            return [self._kind(each) for each in str(value).strip("()[]").replace(",", " ").split()]
        except ValueError:
            kind = "whole numbers" if self._kind is int else "numbers"
            self.fail(f"{value!r} are not {kind} with commas between them", param, ctx)
