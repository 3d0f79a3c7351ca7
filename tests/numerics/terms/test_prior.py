"""Priors against plain loops, and gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seeded import tensor

from mixmix.synthesis.terms.prior import l2_loss, total_variation_loss


def test_total_variation_against_numpy_and_by_hand() -> None:
    images = tensor(2, 3, 5, 4)
    pixels = images.numpy()
    expected = np.abs(np.diff(pixels, axis=2)).mean() + np.abs(np.diff(pixels, axis=3)).mean()
    assert total_variation_loss(images).item() == pytest.approx(expected, rel=1e-12)
    # Rows 0 0 / 1 3: vertical |1| |3|, horizontal |0| |2|.
    by_hand = torch.tensor([[[[0.0, 0.0], [1.0, 3.0]]]])
    assert total_variation_loss(by_hand).item() == 2.0 + 1.0


@pytest.mark.parametrize(("height", "width"), [(1, 4), (4, 1), (1, 1)])
def test_total_variation_of_a_line_of_pixels(height: int, width: int) -> None:
    images = torch.arange(float(height * width)).view(1, 1, height, width)
    assert total_variation_loss(images).item() == (1.0 if height * width > 1 else 0.0)


def test_total_variation_gradient() -> None:
    assert torch.autograd.gradcheck(total_variation_loss, (tensor(2, 2, 4, 3).requires_grad_(),))


def test_l2_against_numpy() -> None:
    images = tensor(2, 3, 5, 4)
    expected = ((images.numpy() - 0.5) ** 2).mean()
    assert l2_loss(images).item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(l2_loss, (images.requires_grad_(),))
