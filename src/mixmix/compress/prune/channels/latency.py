"""How long a network with fewer channels takes, measured."""

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

# What else the machine does can only add to a run: the fast ones say what a network takes.
_QUANTILE = 0.1
# Rounds of 20 runs each. Readings on a busy machine differ by a few percent, now and then by more:
# what comes out near the limit is read again, for longer.
_ROUNDS, _MORE_ROUNDS = 5, 15
_NEAR = 0.15


class LatencyMeter:
    """Time relative to the dense network: ONNX Runtime on the CPU, one image, one thread.

    Both run alternately, so that whatever else the machine does meets both alike. Its files are
    gone when the context is left.

    Args:
        dense: the network to compare with.
        spec: of the network.
        limit: fraction of its time, in (0, 1), that others are to keep.
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
        """Time of one image over that of the dense network, read longer near the limit.

        Args:
            pruned: takes the same images.

        Raises:
            ExportError: if it cannot be exported.
        """
        path = self._exported(pruned, "pruned")
        ratio = self._read(path, _ROUNDS)
        is_near = abs(ratio - self.limit) <= _NEAR * self.limit
        return self._read(path, _MORE_ROUNDS) if is_near else ratio

    def confirmed_ratio(self, pruned: nn.Module) -> float:
        """The same, read longer whatever it is."""
        return self._read(self._exported(pruned, "pruned"), _MORE_ROUNDS)

    def _read(self, path: Path, rounds: int) -> float:
        times = compare_latency_ms([self._dense, path], rounds=rounds, quantile=_QUANTILE)
        return times[str(path)] / times[str(self._dense)]

    def _exported(self, model: nn.Module, name: str) -> Path:
        path = Path(self._folder.name) / f"{name}.onnx"
        content = float_onnx_bytes(model, self._spec.input_shape, name=self._spec.name)
        write_atomic(path, content)
        return path
