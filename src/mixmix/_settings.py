"""Settings as data: frozen dataclasses that are written as JSON or TOML and read back."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from mixmix.errors import InputError

__all__ = ["Settings", "default_of", "subclasses", "to_plain"]

_S = TypeVar("_S", bound="Settings")


class Settings:
    """Base of frozen dataclasses that hold settings.

    A *family* is a base class that names a ``family``; its subclasses are told apart by their
    ``kind``, which stands under the family's name in what ``to_dict`` gives:
    ``{"term": "bn", "weight": 1.0}``. Other packages add to a family by an entry point of the group
    ``mixmix.FAMILY`` that is named after the kind and loads the class. Those of mixmix are in the
    ``modules`` of the family, which are imported when its kinds are asked for.

    Fields hold numbers, text, paths, other settings, tuples and mappings of these, and objects with
    ``to_plain()`` and ``from_plain(value)``, or ``to_dict()`` and ``from_dict(content)``. Fields
    with ``compare=False`` say where to work, not what to do (a folder for checkpoints): they are
    read, but not written.
    """

    family: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` reads them back."""
        own = {
            field.name: to_plain(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.compare
        }
        return {self.family: self.kind} | own if self.family else own

    @classmethod
    def from_dict(cls: type[_S], content: Mapping[str, Any]) -> _S:
        """Build settings from plain JSON or TOML types; what is left out has its default.

        A table for a field whose default is settings changes the fields that it names.

        Raises:
            InputError: if a key or kind is unknown, or a value does not fit its field.
        """
        if not isinstance(content, Mapping):
            raise InputError(f"expected a table of {cls.__name__} fields, got {content!r}")
        chosen, content = cls, dict(content)
        if cls.family:
            chosen = _of_kind(cls, content.pop(cls.family, cls.kind or None))
        try:
            return chosen(**_values(chosen, content))
        except TypeError as error:
            raise InputError(f"{chosen.__name__}: {error}") from error

    def updated(self: _S, content: Mapping[str, Any]) -> _S:
        """A copy with changed fields, in plain types; nested tables change what they name.

        Raises:
            InputError: if a key is unknown, or a value does not fit its field.
        """
        return dataclasses.replace(self, **_values(type(self), content, self))  # type: ignore[type-var]

    @classmethod
    def kinds(cls: type[_S]) -> dict[str, type[_S]]:
        """The classes of this family by their kind: those of mixmix, then those of other packages.

        Raises:
            InputError: if a package's entry point cannot be loaded.
        """
        for module in cls.modules:
            import_module(module)
        found = {each.kind: each for each in subclasses(cls) if each.kind}
        return found | {k: v for k, v in _entries(cls.family).items() if k not in found}


def _values(
    cls: type[Settings], content: Mapping[str, Any], base: Settings | None = None
) -> dict[str, Any]:
    """Values of the fields in ``content``; tables for settings change those of ``base``."""
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise InputError(
            f"{cls.__name__} has no {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(sorted(known)) or 'no fields'}"
        )
    hints = get_type_hints(cls)
    values = {}
    for name, value in content.items():
        before = default_of(known[name]) if base is None else getattr(base, name)
        if isinstance(before, Settings) and _is_table(value) and before.family not in value:
            values[name] = before.updated(value)
        else:
            values[name] = _from_plain(value, hints[name], f"{cls.__name__}.{name}")
    return values


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; ``dataclasses.MISSING`` if it has none."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def to_plain(value: Any) -> Any:
    """A value of a field as plain JSON types."""
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(each) for each in value]
    return value


def subclasses(cls: type[_S]) -> list[type[_S]]:
    """A class and all that inherit from it."""
    return [cls, *(each for child in cls.__subclasses__() for each in subclasses(child))]


@cache
def _entries(family: str) -> dict[str, Any]:
    found = {}
    for point in entry_points(group=f"mixmix.{family}"):
        try:
            found[point.name] = point.load()
        except Exception as error:  # whatever the package's own code raises
            raise InputError(
                f"the {family} {point.name!r} ({point.value}) cannot be loaded: {error}; mend or "
                "uninstall the package that registers it"
            ) from error
    return found


def _of_kind(cls: type[_S], kind: Any) -> type[_S]:
    kinds = cls.kinds()
    if kind is None:
        raise InputError(f"the table needs a {cls.family}: {', '.join(sorted(kinds))}")
    if kind not in kinds:
        raise InputError(
            f"{kind!r} is no {cls.family} that mixmix knows; known: {', '.join(sorted(kinds))}"
        )
    return kinds[kind]


def _from_plain(value: Any, hint: Any, where: str) -> Any:
    """A value of the type that a field asks for."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _from_union(value, arguments, where)
    if hasattr(hint, "from_plain"):
        return hint.from_plain(value)
    if hasattr(hint, "from_dict"):
        if not (_is_table(value) or issubclass(hint, Settings)):
            raise InputError(f"{where} must be a table, got {value!r}")
        return hint.from_dict(value)
    if origin is tuple or origin is not None and issubclass(origin, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(f"{where} must be a list, got {value!r}")
        if origin is tuple and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise InputError(f"{where} must have {len(arguments)} values, got {value!r}")
            pairs = zip(value, arguments, strict=True)
        else:
            pairs = zip(value, [arguments[0]] * len(value), strict=True)
        return tuple(_from_plain(v, h, f"{where}[{i}]") for i, (v, h) in enumerate(pairs))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table, got {value!r}")
        return {str(k): _from_plain(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if hint is Path and isinstance(value, str):
        return Path(value)
    if not _fits(value, hint):
        raise InputError(f"{where} must be {_named(hint)}, got {value!r}")
    return value


def _from_union(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _from_plain(value, option, where)
        except InputError as error:
            errors.append((_is_table(value) == _wants_table(option), error))
    # What fits the form of the value says most; of several the first: the others are shorthands.
    raise max(errors, key=lambda each: each[0])[1]


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _wants_table(hint: Any) -> bool:
    origin = get_origin(hint)
    return hasattr(hint, "from_dict") or (origin is not None and issubclass(origin, Mapping))


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _named(hint: Any) -> str:
    names = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
