"""Size, multiplications and latency of a network before and after its compression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixmix import Artifact, Compressed, Model

__all__ = ["measure_costs"]


def measure_costs(model: Model, compressed: Compressed, artifact: Artifact) -> dict[str, Any]:
    """``macs`` and ``latency_ms`` of a file, and with ``size_bytes`` those of the float network.

    Latency is that of one image in ONNX Runtime on one thread, and None for other formats.
    """
    from mixmix.evaluate.comparison import latencies_of
    from mixmix.graph.costs import count_macs

    shape = model.spec.input_shape
    before: dict[str, Any] = {
        "size_bytes": _size_before(model),
        "macs": count_macs(model.module, shape),
        "latency_ms": None,
    }
    after: dict[str, Any] = {"macs": count_macs(compressed.module, shape), "latency_ms": None}
    if artifact.format == "onnx":
        before["latency_ms"], after["latency_ms"] = latencies_of([model, artifact], shape)
    return {**after, "before": before}


def _size_before(model: Model) -> int:
    """Bytes of the network's own file, or of its weights in memory."""
    from mixmix.graph.costs import count_bytes
    from mixmix.runtimes.latency import size_bytes

    path = Path(model.spec.source)
    if path.suffix in (".onnx", ".pt2") and path.is_file():
        return size_bytes(path)
    return count_bytes(model.module)
