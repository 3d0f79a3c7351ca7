"""Channel moments against ``torch.var_mean``, forward and backward."""

from __future__ import annotations

import pytest
import torch

from mixmix.models.moments import channel_moments


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 7), (6, 4, 5, 3), (2, 1, 1, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_moments_and_their_gradients(shape: tuple[int, ...], channels_last: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(shape, generator=generator) * 3 + 2
    if channels_last and len(shape) == 4:
        features = features.contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, shape[1], generator=generator)
    dims = [dim for dim in range(len(shape)) if dim != 1]

    ours = features.clone().requires_grad_(True)
    mean, var = channel_moments(ours)
    (weights[0] * mean + weights[1] * var.square()).sum().backward()

    plain = features.clone().requires_grad_(True)
    expected_var, expected_mean = torch.var_mean(plain, dim=dims, correction=0)
    (weights[0] * expected_mean + weights[1] * expected_var.square()).sum().backward()

    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(var, expected_var)
    torch.testing.assert_close(ours.grad, plain.grad)


def test_a_mean_far_from_zero_costs_no_precision() -> None:
    features = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.01 + 100
    expected_var, _ = torch.var_mean(features.double(), dim=(0, 2, 3), correction=0)
    _, var = channel_moments(features)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-2, atol=0)
