"""Settings: frozen dataclasses that convert to JSON or TOML types and back."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from mixmix._display import did_you_mean, shorten
from mixmix.errors import InputError, translate_errors

__all__ = ["Settings", "default_of", "identify", "load_entry_points", "subclasses", "to_plain"]

# Longer tuples, such as the classes of ImageNet, are cut.
_MAX_ITEMS, _SHOWN_ITEMS = 8, 4
_S = TypeVar("_S", bound="Settings")
# Of anything that is counted; tensors are not much larger.
_LARGEST_COUNT = 2**31
_SCALARS = (bool, int, float, str, types.NoneType)


class Settings:
    """Base of frozen dataclasses that hold settings.

    A *family* is a base class with a ``family``; its subclasses have a ``kind``, which ``to_dict``
    writes under the name of the family: ``{"term": "bn", "weight": 1.0}``. Other packages add to a
    family by an entry point of its ``group``, such as ``mixmix.terms``, which is named after the
    kind and loads the class. The ``modules`` of a family define its kinds; they are imported when
    needed.

    Fields hold numbers, text, paths, other settings, tuples and mappings of these, and objects with
    ``to_plain()`` and ``from_plain(value)``, or ``to_dict()`` and ``from_dict(content)``. Fields
    with ``compare=False``, such as a folder for checkpoints, do not affect results: they are read,
    but not written.
    """

    family: ClassVar[str] = ""
    group: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    modules: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the types of numbers, text and settings where a class checks its values."""
        super().__init_subclass__(**options)
        cls.__repr__ = Settings.__repr__  # type: ignore[method-assign]  # dataclasses keep it
        check_values = getattr(cls, "__post_init__", lambda self: None)

        def check(self: Settings) -> None:
            try:
                check_values(self)
            except (TypeError, AttributeError, ValueError) as error:
                if not isinstance(error, InputError) and type(self) is cls:
                    self._check_types()
                raise
            if type(self) is cls:
                self._check_types()

        cls.__post_init__ = check  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        """The fields that differ from their defaults; equal settings have equal ones."""
        shown = (
            f"{field.name}={_shown(value)}"
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
            if field.repr and field.compare
            if (value := getattr(self, field.name)) != default_of(field)
        )
        return f"{type(self).__qualname__}({', '.join(shown)})"

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
        """Build settings from plain JSON or TOML types; missing fields have their defaults.

        A table for a field whose default is settings changes the fields that it names.

        Raises:
            InputError: if a key or kind is unknown, or a value has the wrong type.
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
        """The classes of this family by their kind; those of mixmix come first.

        Raises:
            InputError: if an entry point cannot be loaded.
        """
        for module in cls.modules:
            import_module(module)
        found = {each.kind: each for each in subclasses(cls) if each.kind}
        others = load_entry_points(cls.group).items()
        return found | {kind: each for kind, each in others if kind not in found}

    def _check_types(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
            if all(each in _SCALARS or _is_settings(each) for each in options):
                expected = " or ".join(map(_named, options))
                self._require(any(_fits(value, each) for each in options), name, expected)

    def _require(self, valid: bool, name: str, expected: str, hint: str = "") -> None:
        """Raise an ``InputError`` about a field unless its value is valid."""
        if not valid:
            got = getattr(self, name)
            raise InputError(
                f"{self._field_label(name)} must be {expected}, got {shorten(repr(got))}{hint}"
            )

    def _field_label(self, name: str) -> str:
        """What messages call a field."""
        return name

    def _require_int(self, *names: str, least: int, optional: bool = False) -> None:
        """Fields must hold a whole number >= ``least``, or None if they are optional."""
        for name in names:
            value = getattr(self, name)
            valid = (optional and value is None) or (_fits(value, int) and value >= least)
            self._require(valid, name, f"a whole number >= {least}" + " or None" * optional)
            valid = value is None or value <= _LARGEST_COUNT
            self._require(valid, name, f"a whole number <= {_LARGEST_COUNT:,}")

    def _require_range(
        self,
        *names: str,
        low: float,
        high: float = math.inf,
        ends: str = "[]",
        optional: bool = False,
    ) -> None:
        """Fields must hold a finite number from ``low`` to ``high``, or None if optional.

        Round brackets in ``ends`` exclude an end: "()", "(]" or "[)".
        """
        above, below = (operator.gt if end in "()" else operator.ge for end in ends)
        expected = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
        if high == math.inf:
            expected = f"a finite number {'>' if ends[0] == '(' else '>='} {low:g}"
        for name in names:
            value = getattr(self, name)
            valid = optional and value is None
            if _fits(value, float) and math.isfinite(value):
                valid = above(value, low) and below(high, value)
            is_percentage = high == 1 and _fits(value, float) and 1 < value <= 100
            hint = f"; write {value / 100:g} for {value:g}%" if is_percentage else ""
            self._require(valid, name, expected + " or None" * optional, hint)

    def _require_one_of(self, name: str, known: Collection[str]) -> None:
        """A field must hold one of the known values."""
        self._require(getattr(self, name) in known, name, f"one of {', '.join(known)}")


def _shown(value: Any) -> str:
    """Its ``repr``; of a long tuple, only the first items."""
    if not isinstance(value, tuple) or len(value) <= _MAX_ITEMS:
        return repr(value)
    first = ", ".join(map(repr, value[:_SHOWN_ITEMS]))
    return f"({first}, ... {len(value) - _SHOWN_ITEMS} more)"


def _values(
    cls: type[Settings], content: Mapping[str, Any], base: Settings | None = None
) -> dict[str, Any]:
    """Values of the fields in ``content``; tables for settings change those of ``base``."""
    known = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise InputError(
            f"{cls.__name__} has no {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(sorted(known)) or 'no fields'}" + did_you_mean(unknown, known)
        )
    hints = get_type_hints(cls)
    values = {}
    for name, value in content.items():
        before = default_of(known[name]) if base is None else getattr(base, name)
        if (
            isinstance(before, Settings)
            and isinstance(value, Mapping)
            and before.family not in value
        ):
            values[name] = before.updated(value)
        else:
            values[name] = _from_plain(value, hints[name], f"{cls.__name__}.{name}")
    return values


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The default of a field; ``dataclasses.MISSING`` if it has none."""
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def identify(value: Any) -> Any:
    """Everything that results depend on, in plain JSON types: ``to_plain``, and more for networks.

    Objects with ``identity()``, such as a ``Zoo``, whose plain form may be a name, tell it
    themselves.
    """
    if hasattr(value, "identity"):
        return value.identity()
    if isinstance(value, Settings):
        names = {field.name for field in dataclasses.fields(value)}  # type: ignore[arg-type]
        return {
            key: identify(getattr(value, key)) if key in names and _has_parts(each) else each
            for key, each in value.to_dict().items()
        }
    if isinstance(value, Mapping):
        return {str(key): identify(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [identify(each) for each in value]
    return to_plain(value)


def _has_parts(plain: Any) -> bool:
    return isinstance(plain, Mapping | list)


def to_plain(value: Any) -> Any:
    """Convert the value of a field to plain JSON types."""
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
    """A class and its subclasses, at any depth."""
    return [cls, *(each for child in cls.__subclasses__() for each in subclasses(child))]


@cache
def load_entry_points(group: str) -> dict[str, Any]:
    """What other packages register in a group such as ``mixmix.terms``, by name.

    Raises:
        InputError: if an entry point cannot be loaded.
    """
    found = {}
    for point in entry_points(group=group):
        with translate_errors(
            f"the entry point {point.name!r} of {group} ({point.value}) cannot be loaded",
            "fix or uninstall the package that registers it",
        ):
            found[point.name] = point.load()
    return found


def _of_kind(cls: type[_S], kind: Any) -> type[_S]:
    kinds = cls.kinds()
    if kind is None:
        raise InputError(f"the table needs a {cls.family}: {', '.join(sorted(kinds))}")
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(
            f"unknown {cls.family} {kind!r}; known: {', '.join(sorted(kinds))}"
            + did_you_mean(str(kind), kinds)
        )
    return kinds[kind]


def _from_plain(value: Any, hint: Any, where: str) -> Any:
    """Convert plain types to the type of a field."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _from_union(value, arguments, where)
    if hasattr(hint, "from_plain"):
        return hint.from_plain(value)
    if hasattr(hint, "from_dict"):
        if not (isinstance(value, Mapping) or issubclass(hint, Settings)):
            raise InputError(f"{where} must be a table, got {value!r}")
        return hint.from_dict(value)
    if origin is not None and issubclass(origin, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise InputError(f"{where} must be a list, got {value!r}")
        hints = arguments
        if origin is not tuple or arguments[-1] is Ellipsis:
            hints = arguments[:1] * len(value)
        if len(value) != len(hints):
            raise InputError(f"{where} must have {len(hints)} values, got {value!r}")
        pairs = enumerate(zip(value, hints, strict=True))
        return tuple(_from_plain(each, own, f"{where}[{i}]") for i, (each, own) in pairs)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} must be a table, got {value!r}")
        return {str(k): _from_plain(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if hint is Path and isinstance(value, str):
        if "\0" in value:
            raise InputError(f"{shorten(repr(value))} is no path: it has a NUL character")
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
            errors.append((isinstance(value, Mapping) == _is_table(option), error))
    # Prefer the first error of an option with the form of the value; others are shorthands.
    raise max(errors, key=lambda each: each[0])[1]


def _is_table(hint: Any) -> bool:
    origin = get_origin(hint)
    return hasattr(hint, "from_dict") or (origin is not None and issubclass(origin, Mapping))


def _fits(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _named(hint: Any) -> str:
    names = {
        types.NoneType: "None",
        float: "a number",
        int: "a whole number",
        str: "text",
        bool: "true or false",
    }
    return names.get(hint, getattr(hint, "__name__", str(hint)))
