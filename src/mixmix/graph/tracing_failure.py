"""The part of a network that could not be traced."""

from __future__ import annotations

import linecache
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import nn

__all__ = ["FailurePlace", "find_failure"]

# Code that is not the network's own.
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1] / "graph"))


@dataclass(frozen=True)
class FailurePlace:
    """The innermost module in whose code a tracer failed.

    Attributes:
        module: its qualified name, empty for the network itself.
        kind: its class name.
        code: the line of its source with file and number, empty if unknown.
    """

    module: str
    kind: str
    code: str

    def __str__(self) -> str:
        name = f"{self.module} ({self.kind})" if self.module else self.kind
        return f"{name}, at {self.code}" if self.code else name


def find_failure(failure: BaseException, model: nn.Module) -> FailurePlace:
    """The place in ``model`` where a tracer raised an exception.

    Tracers run the forward methods of modules, so the traceback contains them.
    """
    names = {id(module): name for name, module in model.named_modules()}
    place = FailurePlace("", type(model).__name__, "")
    chain: list[BaseException] = []
    current: BaseException | None = failure
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    depth = -1
    for error in chain:
        for index, (frame, line) in enumerate(traceback.walk_tb(error.__traceback__)):
            module = _owner(frame)
            if module is None or id(module) not in names or index <= depth:
                continue
            depth = index
            code = "" if frame.f_code.co_filename.startswith(_LIBRARIES) else _source(frame, line)
            if names[id(module)] == place.module:
                code = code or place.code
            place = FailurePlace(names[id(module)], type(module).__name__, code)
    return place


def _owner(frame: FrameType) -> nn.Module | None:
    """The module whose method a frame runs: its first argument."""
    if not frame.f_code.co_argcount:
        return None
    first = frame.f_locals.get(frame.f_code.co_varnames[0])
    return first if isinstance(first, nn.Module) else None


def _source(frame: FrameType, line: int) -> str:
    path = frame.f_code.co_filename
    text = linecache.getline(path, line).strip()
    place = f"line {line} of {Path(path).name}"
    return f"`{text}` ({place})" if text else place
