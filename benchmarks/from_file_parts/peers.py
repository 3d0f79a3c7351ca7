"""Quantize an ONNX file with another tool, called as the tool's documentation shows.

Run by the interpreter of an environment that has the tools; only MCT, which takes
modules and no ONNX file, needs mixmix there, to load one:
``python peers.py TOOL SETTING NETWORK.onnx INPUTS.npy OUT.onnx``
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx


def with_onnxruntime(
    network: Path, inputs: np.ndarray, out: Path, setting: str, method: str = "MinMax"
) -> None:
    """``quantize_static`` in the QDQ format, each output channel with a scale of its own."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = _batches(network, inputs, 32)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._batches, None)

    weights, activations = {
        "W8A8": (QuantType.QInt8, QuantType.QInt8),
        "W4A8": (QuantType.QInt4, QuantType.QInt8),
        "W4A4": (QuantType.QInt4, QuantType.QInt4),
    }[setting]
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(network), str(prepared))
    quantize_static(
        str(prepared),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        weight_type=weights,
        activation_type=activations,
        calibrate_method=CalibrationMethod[method],
    )
    prepared.unlink()


def with_nncf(network: Path, inputs: np.ndarray, out: Path, setting: str) -> None:
    """``nncf.quantize``; it has 8 bits only."""
    import nncf

    if setting != "W8A8":
        raise SystemExit(f"nncf.quantize has no {setting}")
    model = onnx.load(network)
    is_transformer = any(node.op_type == "Softmax" for node in model.graph.node)
    quantized = nncf.quantize(
        model,
        nncf.Dataset(list(_batches(network, inputs, 1))),
        subset_size=len(inputs),
        model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
    )
    onnx.save(quantized, out)


def with_mct(network: Path | str, inputs: np.ndarray, out: Path, setting: str) -> None:
    """``pytorch_post_training_quantization`` of a module, or of what mixmix reads from a file."""
    import model_compression_toolkit as mct
    import torch

    from mixmix import load

    if setting != "W8A8":
        raise SystemExit(f"the default platform of MCT has no {setting}")

    def batches() -> Iterator[list[torch.Tensor]]:
        yield from ([torch.from_numpy(part)] for part in np.split(inputs, len(inputs) // 32))

    is_file = isinstance(network, Path)
    model = load(str(network), mean=0.5, std=0.5) if is_file else load(network)
    module = model.module.eval()
    # MCT 2.6 calls the exporter as before PyTorch 2.9, which changed its default.
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    quantized, _ = mct.ptq.pytorch_post_training_quantization(module, batches)
    mct.exporter.pytorch_export_model(
        quantized,
        str(out),
        batches,
        serialization_format=mct.exporter.PytorchExportSerializationFormat.ONNX,
        quantization_format=mct.exporter.QuantizationFormat.FAKELY_QUANT,
    )


TOOLS: dict[str, Callable[[Any, np.ndarray, Path, str], None]] = {
    "onnxruntime": with_onnxruntime,
    "onnxruntime-entropy": lambda *given: with_onnxruntime(*given, method="Entropy"),
    "nncf": with_nncf,
    "mct": with_mct,
}


def _batches(network: Path, inputs: np.ndarray, size: int) -> Iterator[dict[str, np.ndarray]]:
    name = onnx.load(network, load_external_data=False).graph.input[0].name
    return ({name: inputs[start : start + size]} for start in range(0, len(inputs), size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("setting")
    parser.add_argument("network", type=Path)
    parser.add_argument("inputs", type=Path, help="what the network takes: (N, C, H, W) float32")
    parser.add_argument("out", type=Path)
    parser.add_argument("--module", help="reference for mixmix, in place of the file, for MCT")
    given = parser.parse_args()
    TOOLS[given.tool](
        given.module or given.network, np.load(given.inputs), given.out, given.setting
    )


if __name__ == "__main__":
    main()
