"""State dicts from files, without running any pickled code."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import torch
from torch import Tensor

from mixmix.errors import DataError, translate_errors
from mixmix.runtime.storage import read_tensors

__all__ = ["load_state_dict", "unwrapped_state"]


# Usual keys of the network's state dict in a larger checkpoint.
_USUAL_KEYS = ("state_dict", "model", "model_state_dict", "net")


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a PyTorch file without running pickled code.

    Raises:
        DataError: if the file is missing, damaged, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if not path.exists():
        raise DataError(f"no checkpoint at {path}")
    with translate_errors(
        f"cannot load {path} as a checkpoint of plain tensors",
        "save it as safetensors",
        into=DataError,
    ):
        content = torch.load(path, map_location="cpu", weights_only=True)
    if _is_state_dict(content):
        return dict(content)
    found = _state_dicts_in(content)
    if len(found) != 1:
        several = f"several state dicts ({', '.join(found)})"
        raise DataError(
            f"{path} contains {several if found else 'no state dict (names to tensors)'}; save "
            "model.state_dict(), on its own or under the key 'state_dict' or 'model'"
        )
    return next(iter(found.values()))


def _is_state_dict(content: object) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _state_dicts_in(content: object) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a checkpoint by key; only the first with a usual key, if any."""
    if not isinstance(content, dict):
        return {}
    found = {str(key): value for key, value in content.items() if value and _is_state_dict(value)}
    usual = next((key for key in _USUAL_KEYS if key in found), None)
    return found if usual is None else {usual: found[usual]}


def unwrapped_state(state: dict[str, Tensor], required: Set[str]) -> dict[str, Tensor]:
    """Strip the prefix of a wrapper, such as ``module.``, ``model.`` or ``_orig_mod.``.

    Other entries of the wrapper are dropped.
    """
    if required <= set(state):
        return state
    some = min(required)
    prefixes = {name.removesuffix(some) for name in state if name.endswith(f".{some}")}
    inner = [
        {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
        for prefix in sorted(prefixes)
    ]
    whole = [own for own in inner if required <= set(own)]
    return whole[0] if len(whole) == 1 else state
