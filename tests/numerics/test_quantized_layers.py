"""Deployed quantizers against PyTorch's fake quantization and the formula of ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_activations_are_those_of_pytorch(bits: int, share: float) -> None:
    zero_point = round(share * (2**bits - 1))
    x = torch.randn(500, generator=torch.Generator().manual_seed(0))
    found = QuantizedActivation(torch.tensor(0.17), torch.tensor(zero_point), bits)(x)
    wanted = torch.fake_quantize_per_tensor_affine(x, 0.17, zero_point, 0, 2**bits - 1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dense", [True, False])
def test_weights_are_those_of_the_onnx_operator(dense: bool) -> None:
    # DequantizeLinear: y = (x - x_zero_point) * x_scale, per channel.
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(5, 4) if dense else nn.Conv2d(5, 4, 3)
    integers = torch.randint(-128, 128, layer.weight.shape, generator=generator)
    scales, zero_points = torch.tensor([0.1, 2.0, 0.5, 0.01]), torch.tensor([-3, 0, 7, 100])
    found = QuantizedLayer(layer, integers, scales, 8, zero_point=zero_points).weight()
    for channel, values in enumerate(found):
        wanted = (integers[channel].numpy() - int(zero_points[channel])) * float(scales[channel])
        np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-6)
