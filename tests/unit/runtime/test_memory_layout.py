from __future__ import annotations

import pytest
import torch
from torch import nn

from mixmix.runtime.memory_layout import in_faster_layout, layout_of_model, memory_layout


@pytest.mark.parametrize("channels", [1, 3])
def test_layout_is_told_and_chosen(channels: int) -> None:
    images = torch.zeros(2, channels, 5, 4)
    assert memory_layout(images) is torch.contiguous_format
    last = images.contiguous(memory_format=torch.channels_last)
    # With one channel both orders are the same.
    expected = torch.contiguous_format if channels == 1 else torch.channels_last
    assert memory_layout(last) is expected
    assert memory_layout(in_faster_layout(images)) is expected
    assert memory_layout(torch.zeros(2, 3)) is torch.contiguous_format


def test_layout_of_a_model_is_that_of_its_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))
    assert layout_of_model(model) is torch.contiguous_format
    assert layout_of_model(model.to(memory_format=torch.channels_last)) is torch.channels_last
