"""Command-line options made from the fields of settings classes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from mixmix.errors import InputError

__all__ = ["NO_VALUE", "Fields", "Given", "Option", "attribute_docs", "load_class", "parameters"]

# On the command line and in TOML, which has no null.
NO_VALUE = "none"


@dataclass(frozen=True)
class Option:
    """An option that is written by hand, since it is no field.

    Attributes:
        name: by which ``Given`` knows it; ``--name`` unless there are ``declarations``.
        type: of its value.
        help: what it does.
        default: its value unless it is given; ``...`` where it must be given.
        declarations: such as ``--model``, ``-m``; ``argument`` for a positional argument.
        panel: heading in the help.
        minimum: of a number.
    """

    name: str
    type: Any
    help: str
    default: Any = None
    declarations: tuple[str, ...] = ()
    panel: str | None = None
    minimum: int | None = None


@dataclass(frozen=True)
class Fields:
    """Options that are made from the fields of a settings class when a command needs them.

    Attributes:
        group: by which ``Given`` knows their values.
        source: the class, as ``MODULE:CLASS``.
        names: fields, separated by commas: each a name, or the path of a field of nested settings
            (``training.steps``); an exclamation mark if the option must be given; and the names of
            the option where they differ from ``--field``.
        panel: heading in the help.
    """

    group: str
    source: str
    names: str
    panel: str | None = None

    def options(self) -> Iterator[tuple[str, Option]]:
        """The path of each field and the option for it.

        Raises:
            AttributeError: if the class has no such field.
        """
        for line in self.names.split(","):
            path, *declarations = line.split()
            option = self._option(path.rstrip("!"), tuple(declarations))
            if path.endswith("!") or option.default is MISSING:
                option = replace(option, default=...)
            yield path.rstrip("!"), option

    def _option(self, path: str, declarations: tuple[str, ...]) -> Option:
        owner, default, name = load_class(self.source), MISSING, path
        for name in path.split("."):
            holder = default if dataclasses.is_dataclass(default) else None
            owner = owner if holder is None else type(holder)
            default = _default_of(owner, name, holder)
        hint = get_type_hints(owner)[name]
        if not any(each.startswith("--") for each in declarations):
            words = name.replace("_", "-")
            both = bool in (hint, *get_args(hint))
            declarations = (f"--{words}/--no-{words}" if both else f"--{words}", *declarations)
        return Option(
            name=re.split(r"[/ ]", declarations[0])[0].lstrip("-").replace("-", "_"),
            type=hint,
            help=attribute_docs(owner).get(name, ""),
            default=default,
            declarations=declarations,
            panel=self.panel,
        )


def load_class(source: str) -> Any:
    """The class that ``MODULE:CLASS`` names."""
    module, _, name = source.partition(":")
    return getattr(importlib.import_module(module), name)


def _default_of(owner: Any, name: str, holder: Any) -> Any:
    """The default of a field; ``MISSING`` if it has none."""
    known = {field.name: field for field in dataclasses.fields(owner)}
    if name not in known:
        raise AttributeError(f"{owner.__name__} has no field {name!r}; it has {', '.join(known)}")
    if holder is not None:
        return getattr(holder, name)
    field = known[name]
    return field.default_factory() if field.default_factory is not MISSING else field.default


def attribute_docs(owner: type) -> dict[str, str]:
    """The entries below "Attributes:" in the docstring of a class, and of those it derives from."""
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
    capital = re.match(r"[a-z]+(?![\w:.`])", text)
    if capital:
        text = text[0].upper() + text[1:]
    # Quotes keep rich from reading ":M:" as an emoji.
    text = re.sub(r"``([^`]*:[^`]*)``", r"'\1'", text)
    return text.replace("``", "")


class Given:
    """The values of a command's options.

    Args:
        values: of options that are written by hand, defaults included.
        fields: by group: what was given of the fields, nested like the settings, in plain types.
    """

    def __init__(self, values: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]) -> None:
        self._values, self._fields = values, fields

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def fields(self, group: str) -> dict[str, Any]:
        """What was given of a group of fields, and nothing else."""
        return dict(self._fields.get(group, {}))


def parameters(
    options: Sequence[Option | Fields], call: Callable[[Given], None]
) -> Callable[..., None]:
    """A function that typer makes a command of: with these options, and then ``call``."""
    places: dict[str, tuple[str, str]] = {}
    found: list[inspect.Parameter] = []
    for each in options:
        pairs = [("", each)] if isinstance(each, Option) else list(each.options())
        for path, option in pairs:
            if isinstance(each, Fields):
                places[option.name] = (each.group, path)
            found.append(_parameter(option))

    def command(context: typer.Context, **values: Any) -> None:
        fields: dict[str, dict[str, Any]] = {}
        for name, (group, path) in places.items():
            source = context.get_parameter_source(name)
            value = values.pop(name)
            if source is not None and source.name == "COMMANDLINE":
                _put(fields.setdefault(group, {}), path, _plain(value))
        call(Given(values, fields))

    first = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
    )
    signature = inspect.Signature([first, *found])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return command


def _put(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
    content[name] = value


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        # Names may be listed with commas.
        parts = [each.split(",") if isinstance(each, str) else [_plain(each)] for each in value]
        return [each for part in parts for each in part]
    return value


def _parameter(option: Option) -> inspect.Parameter:
    annotation, details = _annotation(option.type, option.default)
    required = option.default is ...
    if "argument" in option.declarations:
        info: Any = typer.Argument(help=option.help)
    else:
        names = option.declarations or (f"--{option.name.replace('_', '-')}",)
        if option.minimum is not None:
            details["min"] = option.minimum
        info = typer.Option(*names, help=option.help, rich_help_panel=option.panel, **details)
    default = inspect.Parameter.empty if required else _shown(option.default)
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[annotation, info],
        default=default,
    )


def _shown(default: Any) -> Any:
    return list(default) or None if isinstance(default, tuple) and _is_plain(default) else default


def _is_plain(values: Sequence[Any]) -> bool:
    return all(isinstance(each, int | float | str) for each in values)


def _annotation(hint: Any, default: Any) -> tuple[Any, dict[str, Any]]:
    """The type that typer parses a field's value to, and what else it is told."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [each for each in arguments if each is not type(None)]
        kind = Path if Path in kinds else kinds[0]
        if type(None) not in arguments:
            return _annotation(kind, default)
        if get_origin(kind) is None and default not in (None, ...):
            return Any, {"parser": _or_no_value(kind), "metavar": f"{kind.__name__.upper()}|none"}
        annotation, details = _annotation(kind, default)
        return annotation | None, details
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
