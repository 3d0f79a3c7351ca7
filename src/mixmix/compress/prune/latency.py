"""Measured latency of a pruned network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from mixmix.models.spec import ModelSpec
from mixmix.runtime.storage import write_atomic
from mixmix.runtimes.float_onnx import float_onnx_bytes
from mixmix.runtimes.latency import compare_latency_ms

__all__ = ["LatencyMeter", "latency_meter"]

# Other load on the machine only adds time, so the fast runs measure the network.
_QUANTILE = 0.1
# Rounds of 20 runs. On a busy machine measurements differ by a few percent, sometimes by more:
# ratios near the limit are measured again, for longer.
_ROUNDS, _MORE_ROUNDS = 5, 15
_NEAR = 0.15


@contextmanager
def latency_meter(dense: nn.Module, spec: ModelSpec, limit: float) -> Iterator[LatencyMeter]:
    """A ``LatencyMeter`` with a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="mixmix-latency-") as folder:
        yield LatencyMeter(dense, spec, limit, Path(folder))


class LatencyMeter:
    """Latency relative to the dense network: ONNX Runtime on the CPU, one image, one thread.

    Both networks run in turn, so that other load on the machine slows both.

    Args:
        dense: network to compare with.
        spec: spec of the network.
        limit: latency budget, as a fraction in (0, 1) of that of ``dense``.
        folder: for exported files.
    """

    def __init__(self, dense: nn.Module, spec: ModelSpec, limit: float, folder: Path) -> None:
        self.limit = limit
        self._spec, self._folder = spec, folder
        self._dense = self._exported(dense, "dense")

    def ratio(self, pruned: nn.Module) -> float:
        """Latency relative to the dense network, measured longer near the limit.

        Raises:
            ExportError: if the network cannot be exported.
        """
        path = self._exported(pruned, "pruned")
        ratio = self._measure(path, _ROUNDS)
        is_near = abs(ratio - self.limit) <= _NEAR * self.limit
        return self._measure(path, _MORE_ROUNDS) if is_near else ratio

    def confirmed_ratio(self, pruned: nn.Module) -> float:
        """As ``ratio``, always measured longer."""
        return self._measure(self._exported(pruned, "pruned"), _MORE_ROUNDS)

    def _measure(self, path: Path, rounds: int) -> float:
        times = compare_latency_ms([self._dense, path], rounds=rounds, quantile=_QUANTILE)
        return times[str(path)] / times[str(self._dense)]

    def _exported(self, model: nn.Module, name: str) -> Path:
        path = self._folder / f"{name}.onnx"
        content = float_onnx_bytes(model, self._spec.input_shape, name=self._spec.name)
        write_atomic(path, content)
        return path
