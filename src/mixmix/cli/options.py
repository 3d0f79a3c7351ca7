"""Command-line options made from the fields of settings classes."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

import mixmix
from mixmix._settings import default_of
from mixmix.errors import InputError

__all__ = ["NO_VALUE", "Fields", "Given", "Option", "attribute_docs", "parameters"]

# None on the command line and in TOML, which has no null.
NO_VALUE = "none"


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes:
        name: key in ``Given``; the option is called ``--name`` unless it has ``declarations``.
        type: type of the value.
        help: text for the help.
        default: default value; ``...`` if the option is required.
        declarations: names separated by spaces, or "argument" for a positional argument.
        panel: heading in the help.
    """

    name: str
    type: Any
    help: str
    default: Any = None
    declarations: str = ""
    panel: str | None = None


@dataclass(frozen=True)
class Fields:
    """Options for fields of settings.

    Attributes:
        group: key of their values in ``Given``.
        settings: the class, or the public name of one that is imported when a command needs it.
        names: fields, separated by commas. Each is the name of a field, or the path of a field of
            nested settings (``training.steps``), followed by an exclamation mark if the option is
            required, and by the names of the option if they differ from ``--field``.
        panel: heading in the help.
    """

    group: str
    settings: type | str
    names: str
    panel: str | None = None

    def options(self) -> Iterator[tuple[str, Option]]:
        """The path of each field and its option.

        Raises:
            AttributeError: if the class has no such field.
        """
        owner = self.settings
        if isinstance(owner, str):
            owner = getattr(mixmix, owner)
        for line in self.names.split(","):
            path, _, declarations = line.strip().partition(" ")
            yield path.rstrip("!"), self._option(owner, path, declarations)

    def _option(self, owner: Any, path: str, declarations: str) -> Option:
        settings: Any = None
        *parents, name = path.rstrip("!").split(".")
        for parent in parents:
            settings = _default(owner, parent, settings)
            owner = type(settings)
        default = _default(owner, name, settings)
        hint = get_type_hints(owner)[name]
        if "--" not in declarations:
            words = name.replace("_", "-")
            switch = f"/--no-{words}" if bool in (hint, *get_args(hint)) else ""
            declarations = f"--{words}{switch} {declarations}"
        return Option(
            name=re.split("[/ ]", declarations)[0].lstrip("-").replace("-", "_"),
            type=hint,
            help=attribute_docs(owner).get(name, ""),
            default=... if path.endswith("!") or default is MISSING else default,
            declarations=declarations,
            panel=self.panel,
        )


def _default(owner: Any, name: str, settings: Any) -> Any:
    """The value of a field in ``settings``, or without them its default."""
    known = {field.name: field for field in dataclasses.fields(owner)}
    if name not in known:
        raise AttributeError(f"{owner.__name__} has no field {name!r}; it has {', '.join(known)}")
    return default_of(known[name]) if settings is None else getattr(settings, name)


def attribute_docs(owner: type) -> dict[str, str]:
    """The entries below "Attributes:" in the docstrings of a class and its bases."""
    docs: dict[str, str] = {}
    for each in reversed(owner.__mro__):
        text = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")[2]
        section = re.match(r"(?:(?: .*)?\n)*", text + "\n")
        body = section.group() if section else ""
        for name, entry in re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", body, re.MULTILINE):
            docs[name] = _as_help(" ".join(entry.split()))
    return docs


def _as_help(text: str) -> str:
    """Text of a docstring for the terminal: without code marks and references to code."""
    text = re.sub(r" \(see [^)]*\)", "", text)
    if re.match(r"[a-z]+(?![\w:.`])", text):
        text = text[0].upper() + text[1:]
    # Quotes keep rich from reading ":M:" as an emoji.
    return re.sub(r"``(.*?)``", lambda code: f"'{code[1]}'" if ":" in code[1] else code[1], text)


@dataclass(frozen=True)
class Given:
    """The values of a command's options.

    Attributes:
        values: values of options that are not fields, defaults included.
        groups: by group, the fields that were given, in plain types and nested like the settings.
    """

    values: Mapping[str, Any]
    groups: Mapping[str, dict[str, Any]]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def fields(self, group: str) -> dict[str, Any]:
        """The fields of a group that were given."""
        return dict(self.groups.get(group, {}))


def parameters(
    options: Sequence[Option | Fields], call: Callable[[Given], object]
) -> Callable[..., None]:
    """A function from which typer makes a command with these options that runs ``call``."""
    fields: dict[str, tuple[str, str]] = {}
    found = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for each in options:
        for path, option in [("", each)] if isinstance(each, Option) else each.options():
            if isinstance(each, Fields):
                fields[option.name] = (each.group, path)
            found.append(_parameter(option))

    def command(context: typer.Context, **values: Any) -> None:
        groups: dict[str, dict[str, Any]] = {}
        for name, (group, path) in fields.items():
            source, value = context.get_parameter_source(name), values.pop(name)
            if source is not None and source.name == "COMMANDLINE":
                *parents, last = path.split(".")
                table = groups.setdefault(group, {})
                for parent in parents:
                    table = table.setdefault(parent, {})
                table[last] = _plain(value)
        call(Given(values, groups))

    command.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in found}
    return command


def _plain(value: Any) -> Any:
    """A value in plain types; text in lists is split at commas."""
    if isinstance(value, list | tuple):
        parts = [each.split(",") if isinstance(each, str) else [_plain(each)] for each in value]
        return [each for part in parts for each in part]
    return str(value) if isinstance(value, Path) else value


def _parameter(option: Option) -> inspect.Parameter:
    kind, details = _annotation(option.type, option.default)
    default = inspect.Parameter.empty if option.default is ... else option.default
    if isinstance(default, tuple) and all(isinstance(each, int | float | str) for each in default):
        default = list(default) or None
    info: Any = typer.Argument(help=option.help)
    if option.declarations != "argument":
        info = typer.Option(
            *(option.declarations or f"--{option.name.replace('_', '-')}").split(),
            help=option.help,
            rich_help_panel=option.panel,
            **details,
        )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, info],
        default=default,
    )


def _annotation(hint: Any, default: Any) -> tuple[Any, dict[str, Any]]:
    """The type that typer parses a value to, and further arguments of ``typer.Option``."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [each for each in arguments if each is not type(None)]
        kind = Path if Path in kinds else kinds[0]
        if type(None) not in arguments:
            return _annotation(kind, default)
        if get_origin(kind) is None and default not in (None, ...):
            return Any, {"parser": _or_no_value(kind), "metavar": f"{kind.__name__.upper()}|none"}
        return _annotation(kind, default)[0] | None, {}
    if origin is tuple and arguments[-1] is not Ellipsis:
        return hint, {}
    if origin is not None and issubclass(origin, Sequence):
        kind = list[arguments[0]]  # type: ignore[valid-type]
        return (kind if default else kind | None), {}
    if hint not in (bool, int, float, str, Path):
        raise InputError(f"no option can be made from a field of type {hint}")
    return hint, {}


def _or_no_value(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A parser of numbers or text that also takes ``none``."""

    def parse(text: str) -> Any:
        if str(text) == NO_VALUE:
            return NO_VALUE
        try:
            return kind(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is neither a number nor {NO_VALUE}") from None

    return parse
