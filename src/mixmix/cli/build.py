"""Methods from the tables of a run: what a table leaves out has the method's own default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from mixmix._settings import _from_plain
from mixmix.cli.options import load_class
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix.compress.method import Method
    from mixmix.models import Zoo

__all__ = ["CLASSES", "MethodBuilder", "changed"]

# By the key that names the kind of a table.
CLASSES: dict[str, dict[str, str]] = {
    "method": {
        "quantize": "mixmix.compress.quantize.quantize:Quantize",
        "mixed-precision": "mixmix.compress.quantize.mixed_precision:MixedPrecision",
        "quantize-aware": "mixmix.compress.quantize.quantize_aware:QuantizeAware",
        "prune": "mixmix.compress.prune.weights.prune:Prune",
        "prune-channels": "mixmix.compress.prune.channels.prune_channels:PruneChannels",
        "prune-blocks": "mixmix.compress.prune.blocks.prune_blocks:PruneBlocks",
        "distill": "mixmix.compress.distill.distill:Distill",
    },
    "recovery": {
        "batch-norm": "mixmix.compress.recover.batch_norm:ReestimateBatchNorm",
        "reconstruct": "mixmix.compress.recover.features:ReconstructFeatures",
        "fine-tune": "mixmix.compress.recover.fine_tuning:FineTune",
    },
    "more_images": {
        "generated": "mixmix.compress.train.generated_images:GeneratedImages",
        "fresh": "mixmix.compress.train.fresh_images:FreshImages",
    },
}


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
        if "method" not in table:
            raise InputError(f"a table of [[methods]] needs a method: {_listed('method')}")
        method: Method = self._of_kind(table)
        return method

    def _of_kind(self, table: Mapping[str, Any]) -> Any:
        key = _key_of(table)
        assert key is not None
        kind = table[key]
        if kind not in CLASSES[key]:
            raise InputError(f"unknown {key} {kind!r}; known: {_listed(key)}")
        content = {name: value for name, value in table.items() if name != key}
        return self.changed(load_class(CLASSES[key][kind]), content)

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
        if isinstance(value, Mapping):
            if _key_of(value) is not None:
                return self._of_kind(value)
            if dataclasses.is_dataclass(before):
                return self.changed(before, value)
        if isinstance(value, Sequence) and any(
            isinstance(each, Mapping) and _key_of(each) is not None for each in value
        ):
            return tuple(self._value(each, Any, None, where) for each in value)
        if isinstance(value, list) and not value:
            return ()
        return _from_plain(value, hint, where)

    @staticmethod
    def _loaded(device: str, references: tuple[str, ...], weights: tuple[float, ...] | None) -> Zoo:
        from mixmix.models import Zoo

        return Zoo.load(references, weights=weights, device=device)


def changed(settings: Any, content: Mapping[str, Any]) -> Any:
    """Settings, or the defaults of a class of settings, with changes in plain types."""
    return MethodBuilder("cpu").changed(settings, content)


def _key_of(table: Mapping[str, Any]) -> str | None:
    """The key that names the kind of a table, if it has one."""
    return next((key for key in CLASSES if key in table), None)


def _listed(key: str) -> str:
    return ", ".join(CLASSES[key])


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()
