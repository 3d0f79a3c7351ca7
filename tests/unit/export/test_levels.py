"""Faults of files that are smaller than what the outputs of a network show."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from tiny_networks import NUM_CLASSES, tiny_images, tiny_network, tiny_spec
from torch import nn

from mixmix import Compressed, ModelSpec, Quantize, compress, export
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import ExportError
from mixmix.export.onnx.write import onnx_bytes
from mixmix.export.pt2e import pt2e_bytes
from mixmix.export.verify import check_steps, probe_images
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer


def quantized(family: str, bits: str = "W8A8", **settings: object) -> Compressed:
    method = Quantize(
        bits,
        reconstruction=ReconstructionSettings(iterations=0),
        **settings,  # type: ignore[arg-type]
    )
    return compress((tiny_network(family), tiny_spec(family)), tiny_images(40), method, seed=0)


def check(compressed: Compressed, written: Compressed, format: str) -> None:
    images = probe_images(compressed.spec)
    write = onnx_bytes if format == "onnx" else lambda model, _: pt2e_bytes(model)
    content = write(written, images)
    check_steps(content, format, compressed, images, max_logit_error=1e-3)


def move_zero_point(quantizers: list[QuantizedActivation], layers: list[QuantizedLayer]) -> None:
    quantizers[2].zero_point += 1


def scale_activations(quantizers: list[QuantizedActivation], layers: list[QuantizedLayer]) -> None:
    quantizers[1].scale *= 1.01


def swap_scales(quantizers: list[QuantizedActivation], layers: list[QuantizedLayer]) -> None:
    scale = layers[1].scale
    scale[:2] = scale[:2].flip(0)


def move_weight(quantizers: list[QuantizedActivation], layers: list[QuantizedLayer]) -> None:
    layers[0].integers[0, 0, 0, 0] -= 1


def move_bias(quantizers: list[QuantizedActivation], layers: list[QuantizedLayer]) -> None:
    assert layers[1].bias is not None
    layers[1].bias[0] += 0.1 * float(quantizers[2].scale)


def change_head(quantizers: list[QuantizedActivation], layers: list[QuantizedLayer]) -> None:
    layers[-1].scale[0] *= 1.05


FAULTS = (
    move_zero_point,
    scale_activations,
    swap_scales,
    move_weight,
    move_bias,
    change_head,
)


@pytest.mark.parametrize("format", ["onnx", "pt2e"])
def test_small_faults_are_found(format: str) -> None:
    compressed = quantized("no-batch-norm")
    check(compressed, compressed, format)
    kinds = (QuantizedActivation, QuantizedLayer)
    for fault in FAULTS:
        faulty = Compressed(copy.deepcopy(compressed.module), compressed.spec)
        fault(*([m for m in faulty.module.modules() if isinstance(m, kind)] for kind in kinds))
        with pytest.raises(ExportError, match="computes something else"):
            check(compressed, faulty, format)


def test_another_clamp_is_found() -> None:
    compressed = quantized("depthwise")
    faulty = Compressed(copy.deepcopy(compressed.module), compressed.spec)
    for name, module in list(faulty.module.named_modules()):
        if isinstance(module, nn.ReLU6 | nn.ReLU | nn.Hardtanh):
            faulty.module.set_submodule(name, nn.Hardtanh(0.0, 0.5))
            break
    with pytest.raises(ExportError, match="computes something else"):
        check(compressed, faulty, "pt2e")


def test_a_wrong_padding_of_large_images_is_found() -> None:
    class Padded(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.next = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2)
            self.pad, self.fc = nn.ConstantPad2d(1, value), nn.Linear(8, NUM_CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.next(self.pad(torch.relu(self.conv(x)))).relu()
            out: torch.Tensor = self.fc(x.mean((2, 3)))
            return out

    spec = ModelSpec("net", "module", (3, 96, 96), 0.5, 0.25, NUM_CLASSES)
    images = torch.rand(32, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    compressed = compress((Padded(-1.0).eval(), spec), images, "W8A8", seed=0)
    faulty = Compressed(copy.deepcopy(compressed.module), spec)
    (pad,) = (m for m in faulty.module.modules() if isinstance(m, nn.ConstantPad2d))
    pad.value = 0.0
    check(compressed, compressed, "onnx")
    with pytest.raises(ExportError, match="computes something else"):
        check(compressed, faulty, "onnx")


@pytest.mark.parametrize("family", ["plain", "depthwise"])
def test_programs_have_zero_points_of_weights(family: str, tmp_path: Path) -> None:
    compressed = quantized(family, symmetric_weights=False)
    assert export(compressed, tmp_path / "m.pt2").logit_error < 1e-3


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("bits", [None, "W8A8"])
def test_outputs_without_classes_are_compared(
    num_outputs: int, bits: str | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(8, num_outputs),
    ).eval()
    spec = ModelSpec("age", "module", (3, 12, 12), 0.5, 0.25, 0)
    compressed = Compressed(net, spec)
    if bits is not None:
        compressed = compress((net, spec), torch.rand(32, 3, 12, 12), bits, seed=0)
    export(compressed, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert (
        proto.graph.initializer
        and np.isfinite(
            [
                numpy_helper.to_array(each).astype(np.float64).sum()
                for each in proto.graph.initializer
            ]
        ).all()
    )
