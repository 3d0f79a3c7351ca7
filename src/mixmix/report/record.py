"""Benchmark records: rows of results with the command, machine and versions behind them."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mixmix._version import __version__
from mixmix.runtime.machine import memory_bytes, usable_cpus

__all__ = ["benchmark_record", "describe_machine", "describe_versions"]

_PACKAGES = ("onnxruntime", "numpy")


def benchmark_record(
    question: str, command: str, rows: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of a ``result.json``.

    Args:
        question: question that the benchmark answers, in one sentence.
        command: shell command that reproduces the record.
        rows: one for each model, task, setting, kind of images and seed, with these keys where
            they apply: ``model``, ``task``, ``setting``, ``images`` (``float`` for the original
            model), ``num_images``, ``zoo``, ``seed``, ``top1`` and ``agreement`` (in percent),
            ``num_test``, ``cpu_seconds``, ``size_bytes``, ``latency_ms``. Other keys are allowed.

    Returns:
        Plain JSON types: NumPy and PyTorch values become Python numbers or lists, non-finite
        numbers None, and other objects text, so that writing results never fails.
    """
    return {
        "question": question,
        "command": command,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "rows": [plain(row) for row in rows],
    }


def describe_machine() -> dict[str, Any]:
    """Hardware: ``cpu`` (its name), ``cores`` and ``threads`` in use, ``memory_gib``."""
    return {
        "cpu": _cpu_name(Path("/proc/cpuinfo")),
        "cores": usable_cpus(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
    }


def describe_versions() -> dict[str, str]:
    """Versions of Python, mixmix and the installed packages that results depend on."""
    versions = {
        "mixmix": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the build, which the metadata lacks
    }
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def plain(value: Any) -> Any:
    """A value as plain JSON types; see ``benchmark_record``."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist())
    return str(value)


def _cpu_name(cpuinfo: Path) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _memory_gib() -> float | None:
    memory = memory_bytes()
    return None if memory is None else round(memory / 2**30, 1)
