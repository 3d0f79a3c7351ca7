"""State dicts from files, without running any pickled code."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import torch
from torch import Tensor

from mixmix.errors import DataError, first_line
from mixmix.runtime.storage import read_tensors

__all__ = ["load_state_dict", "unwrapped_state"]


# Of a network's state dict in a checkpoint of more than that.
_USUAL_KEYS = ("state_dict", "model", "model_state_dict", "net")


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from a PyTorch file without running any pickle.

    Raises:
        DataError: if the file is absent, damaged, or holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"no checkpoint at {path}") from error
    except Exception as error:  # torch.load raises many kinds for a damaged or unsafe file
        raise DataError(
            f"cannot load {path} as a checkpoint of plain tensors: {first_line(error)}; "
            "save it as safetensors"
        ) from error
    if _is_state_dict(content):
        return dict(content)
    found = _state_dicts_in(content)
    if len(found) != 1:
        several = f"several state dicts ({', '.join(found)})"
        raise DataError(
            f"{path} holds {several if found else 'no state dict (names to tensors)'}; save "
            "model.state_dict(), on its own or under the key 'state_dict' or 'model'"
        )
    return next(iter(found.values()))


def _is_state_dict(content: object) -> bool:
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _state_dicts_in(content: object) -> dict[str, dict[str, Tensor]]:
    """Those that a checkpoint holds, by key; the only one that has a usual name, if one has."""
    if not isinstance(content, dict):
        return {}
    found = {str(key): value for key, value in content.items() if value and _is_state_dict(value)}
    usual = next((key for key in _USUAL_KEYS if key in found), None)
    return found if usual is None else {usual: found[usual]}


def unwrapped_state(state: dict[str, Tensor], required: Set[str]) -> dict[str, Tensor]:
    """Without the prefix that names have in the state of a module around the network.

    ``module.`` of data parallelism, ``model.`` of a trainer's module, ``_orig_mod.`` of compiled
    ones. What else such a module has is left out.
    """
    if required <= set(state):
        return state
    some = min(required)
    prefixes = {name.removesuffix(some) for name in state if name.endswith(f".{some}")}
    inner = [
        {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        for prefix in sorted(prefixes)
    ]
    whole = [own for own in inner if required <= set(own)]
    return whole[0] if len(whole) == 1 else state
