"""Memory formats of images and features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["in_faster_layout", "layout_of_model", "memory_layout"]


def memory_layout(tensor: Tensor) -> torch.memory_format:
    """Channels-last for tensors that are only channels-last, contiguous for all others."""
    channels_last = (
        tensor.ndim == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        and not tensor.is_contiguous()
    )
    return torch.channels_last if channels_last else torch.contiguous_format


def in_faster_layout(images: Tensor) -> Tensor:
    """The images in the format in which convolutions are faster: channels-last, if C > 1."""
    layout = torch.channels_last if images.shape[1] > 1 else torch.contiguous_format
    return images.contiguous(memory_format=layout)


def layout_of_model(model: nn.Module) -> torch.memory_format:
    """The format for a model's inputs: channels-last if any of its weights is."""
    layouts = {memory_layout(parameter) for parameter in model.parameters()}
    return torch.channels_last if torch.channels_last in layouts else torch.contiguous_format
