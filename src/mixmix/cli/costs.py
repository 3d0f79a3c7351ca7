"""Size, multiplications and latency of a network before and after its compression."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mixmix.errors import ExportError, InputError

if TYPE_CHECKING:
    from mixmix import Artifact, Compressed, Model

__all__ = ["measure_costs"]

_REPEATS, _ROUNDS = 5, 3


def measure_costs(model: Model, compressed: Compressed, artifact: Artifact) -> dict[str, Any]:
    """``macs`` and ``latency_ms`` of a file, and with ``size_bytes`` those of the float network.

    Latency is that of one image in ONNX Runtime on one thread, and None for other formats.
    """
    from mixmix.graph.costs import count_macs

    shape = model.spec.input_shape
    before: dict[str, Any] = {
        "size_bytes": _size_before(model),
        "macs": count_macs(model.module, shape),
        "latency_ms": None,
    }
    after: dict[str, Any] = {"macs": count_macs(compressed.module, shape), "latency_ms": None}
    if artifact.format == "onnx":
        before["latency_ms"], after["latency_ms"] = _latencies(model, artifact.path)
    return {**after, "before": before}


def _size_before(model: Model) -> int:
    """Bytes of the network's own file, or of its weights in memory."""
    path = Path(model.spec.source)
    if path.suffix in (".onnx", ".pt2") and path.is_file():
        return path.stat().st_size
    tensors = model.module.state_dict().values()
    return sum(each.numel() * each.element_size() for each in tensors)


def _latencies(model: Model, path: Path) -> tuple[float | None, float | None]:
    """Milliseconds of the float network and of the file, measured in alternation."""
    from mixmix.runtimes.float_onnx import float_onnx_bytes
    from mixmix.runtimes.latency import compare_latency_ms

    spec = model.spec
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "float.onnx"
        try:
            plain.write_bytes(float_onnx_bytes(model.module, spec.input_shape, name=spec.name))
            found = compare_latency_ms([plain, path], repeats=_REPEATS, rounds=_ROUNDS)
        except (ExportError, InputError):  # the file itself has been checked
            return None, None
    return found[str(plain)], found[str(path)]
