"""Methods from the tables of a run: what a table leaves out has the method's own default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from mixmix._settings import Settings, _from_plain
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix import Method, Zoo

__all__ = ["MethodBuilder", "changed"]


class MethodBuilder:
    """Builds methods from plain tables.

    Args:
        device: where networks are loaded that a method asks for.
    """

    def __init__(self, device: str) -> None:
        self._zoo = cache(partial(self._loaded, device))

    def method(self, table: Mapping[str, Any]) -> Method:
        """The method of a table.

        Raises:
            InputError: if its kind or a key is unknown, or a value does not fit.
        """
        from mixmix import Method

        if "method" not in table:
            raise InputError(f"a table of [[methods]] needs a method: {', '.join(Method.kinds())}")
        method: Method = self._of_kind(Method, table)
        return method

    def _of_kind(self, family: type[Settings], table: Mapping[str, Any]) -> Any:
        kind, kinds = table.get(family.family), family.kinds()
        if kind not in kinds:
            raise InputError(f"unknown {family.family} {kind!r}; known: {', '.join(sorted(kinds))}")
        content = {name: value for name, value in table.items() if name != family.family}
        return self.changed(kinds[kind], content)

    def changed(self, settings: Any, content: Mapping[str, Any]) -> Any:
        """Settings, or the defaults of a class of settings, with changes."""
        is_class = isinstance(settings, type)
        owner = settings if is_class else type(settings)
        known = {each.name: each for each in dataclasses.fields(owner)}
        unknown = sorted(set(content) - set(known))
        if unknown:
            raise InputError(
                f"{owner.__name__} has no {', '.join(map(repr, unknown))}; it has "
                f"{', '.join(sorted(known)) or 'no fields'}"
            )
        hints = get_type_hints(owner)
        values = {}
        for name, value in content.items():
            before = _default(known[name]) if is_class else getattr(settings, name)
            values[name] = self._value(value, hints[name], before, f"{owner.__name__}.{name}")
        try:
            return owner(**values) if is_class else dataclasses.replace(settings, **values)
        except TypeError as error:
            raise InputError(f"{owner.__name__}: {error}") from error

    def _value(self, value: Any, hint: Any, before: Any, where: str) -> Any:
        from mixmix.models import Zoo

        if value is not None and Zoo in (hint, *get_args(hint)):
            models, weights = (
                (value.get("models", ()), value.get("weights"))
                if isinstance(value, Mapping)
                else (value, None)
            )
            return self._zoo(tuple(models), None if weights is None else tuple(weights))
        family = _family_in(hint)
        if isinstance(value, Mapping):
            if family is not None and family.family in value:
                return self._of_kind(family, value)
            if dataclasses.is_dataclass(before):
                return self.changed(before, value)
        if family is not None and isinstance(value, list):
            return tuple(self._of_kind(family, each) for each in value)
        return _from_plain(value, hint, where)

    @staticmethod
    def _loaded(device: str, references: tuple[str, ...], weights: tuple[float, ...] | None) -> Zoo:
        from mixmix.models import Zoo

        return Zoo.load(references, weights=weights, device=device)


def changed(settings: Any, content: Mapping[str, Any]) -> Any:
    """Settings, or the defaults of a class of settings, with changes in plain types."""
    return MethodBuilder("cpu").changed(settings, content)


def _family_in(hint: Any) -> type[Settings] | None:
    """The family of settings that a field holds, alone or in a sequence."""
    if isinstance(hint, type) and issubclass(hint, Settings):
        base = next((each for each in hint.__mro__[::-1] if getattr(each, "family", "")), None)
        return base
    found = (_family_in(each) for each in get_args(hint))
    return next((each for each in found if each is not None), None)


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()
