"""Error of integer kernels whose sums saturate at 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["saturation_error"]

_LARGEST_INT16 = 2**15 - 1


def saturation_error(
    levels: Tensor,
    weight: Tensor,
    *,
    zero_point: int,
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = (0, 0, 0, 0),
    dilations: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> float:
    """Error of summing pairs of products in signed 16 bits, relative to a layer's output.

    Args:
        levels: input (N, I, H, W) or (N, I), integers in [0, 255].
        weight: (O, I / groups, h, w) or (O, I), int8.
        zero_point: of the input.
        strides: of the convolution.
        pads: top, left, bottom, right.
        dilations: of the convolution.
        groups: of the convolution.

    Returns:
        Root mean square of the error over that of the centered output.
    """
    if weight.ndim == 2:
        levels, weight = levels[:, :, None, None], weight[:, :, None, None]
    top, left, bottom, right = pads
    padded = F.pad(levels, (left, right, top, bottom), value=zero_point)
    if weight.shape[1] == 1 and len(weight) == groups:
        return 0.0  # kernels of depthwise convolutions accumulate in 32 bits
    exact, lost = [], []
    for inputs, filters in zip(padded.chunk(groups, 1), weight.chunk(groups), strict=True):
        # (O, h * w * I): channels innermost, in the order of integer kernels.
        rows = filters.permute(0, 2, 3, 1).flatten(1).float()
        columns = F.unfold(inputs, filters.shape[2:], dilation=dilations, stride=strides)
        columns = columns.unflatten(1, (filters.shape[1], -1)).transpose(1, 2).flatten(1, 2)
        exact.append(rows @ (columns - zero_point))
        lost.append(_saturation(rows, columns))
    outputs = torch.cat(exact, 1)
    spread = (outputs - outputs.mean()).square().mean().clamp_min(1e-12)
    return float((torch.cat(lost, 1).square().mean() / spread).sqrt())


def _saturation(rows: Tensor, columns: Tensor) -> Tensor:
    """Error (N, O, L) of ``rows @ columns`` for rows (O, K) and columns (N, K, L) in [0, 255]."""
    if rows.shape[1] % 2:
        rows, columns = F.pad(rows, (0, 1)), F.pad(columns, (0, 0, 0, 1))
    pairs = rows.unflatten(1, (-1, 2))
    largest = torch.maximum(pairs.clamp_min(0).sum(2), -pairs.clamp_max(0).sum(2))
    lost = columns.new_zeros(len(columns), len(rows), columns.shape[2])
    for output, pair in (255 * largest > _LARGEST_INT16).nonzero().tolist():
        first, second = columns[:, 2 * pair], columns[:, 2 * pair + 1]
        total = pairs[output, pair, 0] * first + pairs[output, pair, 1] * second
        lost[:, output] += total - total.clamp(-_LARGEST_INT16 - 1, _LARGEST_INT16)
    return lost
