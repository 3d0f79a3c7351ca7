"""Measured latency of a pruned network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

from torch import nn

from mixmix.models.spec import ModelSpec
from mixmix.runtime.storage import write_atomic
from mixmix.runtimes.float_onnx import float_onnx_bytes
from mixmix.runtimes.latency import compare_latency_ms

__all__ = ["LatencyMeter"]

# Other load on the machine only adds time, so the fast runs measure the network.
_QUANTILE = 0.1
# Rounds of 20 runs. On a busy machine measurements differ by a few percent, sometimes by more:
# ratios near the limit are measured again, for longer.
_ROUNDS, _MORE_ROUNDS = 5, 15
_NEAR = 0.15


class LatencyMeter:
    """Latency relative to the dense network: ONNX Runtime on the CPU, one image, one thread.

    Both networks run in turn, so that other load on the machine slows both. A context manager,
    which removes its files on exit.

    Args:
        dense: network to compare with.
        spec: spec of the network.
        limit: latency budget, as a fraction in (0, 1) of that of ``dense``.
    """

    def __init__(self, dense: nn.Module, spec: ModelSpec, limit: float) -> None:
        self.limit = limit
        self._spec = spec
        self._folder = tempfile.TemporaryDirectory(prefix="mixmix-latency-")
        self._dense = self._exported(dense, "dense")

    def __enter__(self) -> LatencyMeter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

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
        path = Path(self._folder.name) / f"{name}.onnx"
        content = float_onnx_bytes(model, self._spec.input_shape, name=self._spec.name)
        write_atomic(path, content)
        return path
