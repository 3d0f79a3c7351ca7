"""State dicts from files, without running any pickled code."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from torch import Tensor

from mixmix.errors import DataError, translate_errors, warn
from mixmix.models.pickled_data import Inert, read_pickled
from mixmix.runtime.storage import read_tensors

__all__ = ["load_state_dict", "unwrapped_state"]


# Usual keys of the network's state dict in a larger checkpoint.
_USUAL_KEYS = ("state_dict", "model", "model_state_dict", "net")

# Names of a network in the modules that train it.
_USUAL_PREFIXES = {"module", "model", "net", "network", "_orig_mod", "student", "backbone"}


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a PyTorch file without running pickled code.

    A key of a checkpoint with several networks may follow the path, as in ``last.pth#model_ema``.

    Raises:
        DataError: if the file is missing, damaged, or holds more than tensors.
    """
    path, key = _split_key(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if not path.is_file():
        raise DataError(f"no checkpoint at {path}")
    with translate_errors(
        f"cannot load {path} as a checkpoint of plain tensors",
        "save it as safetensors",
        into=DataError,
    ):
        content = read_pickled(path)
    if _is_state_dict(content):
        return dict(content)
    found = _state_dicts_in(content)
    if not found and not key and (own := _tensors_beside_data(content)):
        return own
    usual = [each for each in _USUAL_KEYS if each in found]
    chosen = key or (usual[0] if usual else next(iter(found)) if len(found) == 1 else None)
    if chosen is None or chosen not in found:
        raise DataError(f"{path} {_why_none(content, found, key)}")
    others = [f"{path}#{each}" for each in found if each != chosen and "optim" not in each]
    if others and not key:
        warn(f"{path} holds several networks; loaded {chosen!r}, not {', '.join(others)}")
    return found[chosen]


def _split_key(path: Path) -> tuple[Path, str]:
    base, sign, key = str(path).rpartition("#")
    return (Path(base), key) if sign and not path.exists() else (path, "")


def _is_state_dict(content: object) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _state_dicts_in(content: object) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a checkpoint by key."""
    if not isinstance(content, dict):
        return {}
    return {
        str(key): value
        for key, value in content.items()
        if isinstance(value, dict) and value and _is_state_dict(value)
    }


def _tensors_beside_data(content: object) -> dict[str, Tensor]:
    """The tensors of a state dict to which a script added numbers and texts, such as an epoch."""
    entries = content if isinstance(content, dict) else {}
    if any(isinstance(value, Inert) for value in entries.values()):
        return {}
    named = {name: each for name, each in entries.items() if isinstance(name, str)}
    return {name: each for name, each in named.items() if isinstance(each, Tensor)}


def _why_none(content: object, found: Mapping[str, object], key: str) -> str:
    """Why a checkpoint has no state dict, or none that can be chosen, and what to do."""
    advice = "save model.state_dict(), on its own or under the key 'state_dict' or 'model'"
    parts = {"": content} | (content if isinstance(content, dict) else {})
    whole = [name for name, part in parts.items() if isinstance(part, Inert)]
    if key or len(found) > 1:
        wanted = f"no state dict {key!r}, but" if key else "several state dicts:"
        names = ", ".join(found) or "none"
        return (
            f"contains {wanted} {names}; write the path as FILE#KEY with one of them, or {advice}"
        )
    if whole:
        origin = getattr(parts[whole[0]], "origin", "module")
        place = f" under {whole[0]!r}" if whole[0] else ""
        if origin.startswith("numpy."):
            return f"contains arrays of NumPy{place}, expected tensors; {advice}"
        return (
            f"contains a whole pickled {origin}{place}, whose code is not run; load it in your "
            f"own code, and {advice}"
        )
    return f"contains no state dict (names to tensors); {advice}"


def unwrapped_state(state: dict[str, Tensor], required: Set[str]) -> dict[str, Tensor]:
    """Strip the prefix of a wrapper, such as ``module.``, ``model.`` or ``_orig_mod.``.

    Other entries of the wrapper, such as a copy for averaging or a teacher, are dropped.
    """
    if not required or required <= set(state):
        return state
    some = min(required)
    prefixes = sorted(name.removesuffix(some) for name in state if name.endswith(f".{some}"))
    inner = {
        prefix: {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
        for prefix in prefixes
    }
    whole = {prefix: own for prefix, own in inner.items() if required <= set(own)}
    usual = [p for p in whole if _USUAL_PREFIXES.issuperset(p.strip(".").split("."))]
    chosen = list(whole) if len(whole) == 1 else usual
    if len(chosen) != 1:
        return state
    others = ", ".join(prefix for prefix in whole if prefix != chosen[0])
    if others:
        warn(f"the weights hold several networks; loaded {chosen[0]!r}, not {others}")
    return whole[chosen[0]]
