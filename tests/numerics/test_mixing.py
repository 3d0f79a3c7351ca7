"""Data mixing against torch's own interpolation, and its gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mixmix.data.mixing import Boxes, draw_boxes, mix_images


def images(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def paste(first: Tensor, second: Tensor, boxes: Boxes) -> Tensor:
    """The oracle: one image at a time, F.interpolate and an assignment (torch's own resize)."""
    mixed = first.clone()
    for index in range(len(first)):
        top, left, height, width = (int(values[index]) for values in boxes)
        mixed[index, :, top : top + height, left : left + width] = F.interpolate(
            second[index : index + 1], (height, width), mode="bilinear", align_corners=False
        )[0]
    return mixed


@given(st.integers(1, 17), st.integers(1, 17), st.integers(1, 3), st.integers(0, 10_000))
def test_mixing_pastes_the_resized_image(height: int, width: int, channels: int, seed: int) -> None:
    first = images(6, channels, height, width, seed=seed)
    second = images(6, channels, height, width, seed=seed + 1)
    boxes = draw_boxes(
        6, (height, width), (0.05, 0.95), generator=torch.Generator().manual_seed(seed)
    )
    # Coordinates are computed in single precision.
    torch.testing.assert_close(
        mix_images(first, second, boxes), paste(first, second, boxes), atol=1e-5, rtol=0
    )


def test_outside_the_box_nothing_changes_by_a_bit() -> None:
    first, second = (images(1, 3, 8, 8, seed=s, dtype=torch.float32) for s in (0, 1))
    boxes = Boxes(*(torch.tensor([v]) for v in (2, 3, 4, 5)))
    changed = (mix_images(first, second, boxes) != first).any(dim=1)[0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 3:8] = True
    assert torch.equal(changed, expected)


def test_box_over_the_whole_image_gives_the_other_image() -> None:
    first, second = images(2, 3, 7, 9, seed=0), images(2, 3, 7, 9, seed=1)
    zero = torch.zeros(2, dtype=torch.int64)
    boxes = Boxes(zero, zero, zero + 7, zero + 9)
    torch.testing.assert_close(mix_images(first, second, boxes), second, atol=1e-5, rtol=0)


def test_share_weighs_labels_as_the_pixels_are() -> None:
    boxes = draw_boxes(50, (13, 10), (0.1, 0.9), generator=torch.Generator().manual_seed(0))
    black, white = torch.zeros(50, 1, 13, 10), torch.ones(50, 1, 13, 10)
    mixed = mix_images(black, white, boxes)
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), boxes.fraction((13, 10)))


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_through_both_images(channels_last: bool) -> None:
    first, second = images(3, 2, 5, 6, seed=0), images(3, 2, 5, 6, seed=1)
    if channels_last:
        first = first.contiguous(memory_format=torch.channels_last)
        second = second.contiguous(memory_format=torch.channels_last)
    boxes = draw_boxes(3, (5, 6), (0.2, 0.7), generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda a, b: mix_images(a, b, boxes), (first.requires_grad_(), second.requires_grad_())
    )


def test_an_image_and_its_partner_share_gradients() -> None:
    """As in the loop: the second image is a permutation of the first tensor."""
    batch = images(4, 2, 5, 5, seed=0).requires_grad_()
    partner = torch.tensor([1, 2, 3, 0])
    boxes = draw_boxes(4, (5, 5), (0.2, 0.7), generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: mix_images(x, x[partner], boxes), (batch,))
