"""Operations that PyTorch's ONNX exporter does not translate, or not faithfully, in others."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mixmix.graph.calls import pair

__all__ = ["Exportable"]


class Exportable(TorchFunctionMode):
    """Inside it, attention of any rank and every average pool are traced as they compute.

    The exporter translates attention of four dimensions only. It leaves out ``divisor_override``,
    and ONNX Runtime divides by other numbers than PyTorch at the border in ``ceil_mode``.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func in _ATTENTION and len(args) >= 3 and args[0].dim() != 4:
            return _attention(func, args, named)
        if func in _AVERAGE_POOLS:
            pool = _POOL.bind(*args, **named)
            pool.apply_defaults()
            if pool.arguments["ceil_mode"] or pool.arguments["divisor_override"] is not None:
                return _average_pool(**pool.arguments)
        return func(*args, **named)


_ATTENTION = (
    F.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention,
    torch.ops.aten.scaled_dot_product_attention.default,
)
_AVERAGE_POOLS = (
    F.avg_pool2d,
    torch.ops.aten.avg_pool2d,
    torch.ops.aten.avg_pool2d.default,
)


def _attention(func: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    query, key, value = args[:3]
    rest = list(args[3:])
    mask = rest[0] if rest else named.get("attn_mask")
    if mask is not None:
        mask = _of_rank_4(mask.expand(*query.shape[:-1], key.shape[-2]))
        if rest:
            rest[0] = mask
        else:
            named["attn_mask"] = mask
    found: Tensor = func(*map(_of_rank_4, (query, key, value)), *rest, **named)
    return found.reshape(*query.shape[:-1], value.shape[-1])


def _of_rank_4(tensor: Tensor) -> Tensor:
    if tensor.dim() > 4:
        return tensor.flatten(0, -4)
    return tensor.reshape(*[1] * (4 - tensor.dim()), *tensor.shape)


def _average_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """``avg_pool2d`` as a plain one of a padded input, times factors for the true divisors."""
    kernel, strides, pads = map(pair, (kernel_size, stride or kernel_size, padding))
    sides, factors = [], []
    for size, window, step, pad in zip(input.shape[-2:], kernel, strides, pads, strict=True):
        starts = _starts(int(size), window, step, pad, ceil_mode)
        sides.append((pad, starts[-1] + window - int(size)))
        first, last = (-pad, size + pad) if count_include_pad else (0, size)
        counts = [min(start + window, last) - max(start, first) for start in starts]
        factors.append(window / torch.tensor(counts, dtype=input.dtype, device=input.device))
    averages: Tensor = F.avg_pool2d(F.pad(input, (*sides[1], *sides[0])), kernel, strides)
    if divisor_override is not None:
        return averages * (kernel[0] * kernel[1] / divisor_override)
    return averages * (factors[0][:, None] * factors[1])


_POOL = inspect.signature(_average_pool)


def _starts(size: int, window: int, step: int, pad: int, ceil_mode: bool) -> list[int]:
    """Where the windows of a pool start, along one axis; the last one inside the image."""
    room = size + 2 * pad - window
    last = -(-room // step) if ceil_mode else room // step
    starts = [index * step - pad for index in range(last + 1)]
    return [start for start in starts if not ceil_mode or start < size]
