"""The operators that programs in files may call: an allow-list of pure functions of tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators

__all__ = ["ASSERTIONS", "find_operator", "is_quantized"]

# Names in torch.ops.aten, without those of in-place variants.
_ATEN = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d
    adaptive_avg_pool3d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d add addcdiv
    addcmul addmm alias all alpha_dropout amax amin any arange argmax argmin argsort as_strided
    asin asinh atan atan2 atanh avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm bilinear
    bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_to cat ceil celu channel_shuffle
    chunk clamp clamp_max clamp_min clip clone col2im concat concatenate constant_pad_nd
    contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    copy cos cosh cosine_similarity cumsum detach diagonal diff div divide dot dropout einsum elu
    embedding empty_like eq erf erfinv exp expand expand_as expm1 eye feature_alpha_dropout
    feature_dropout fft_fft2 fft_ifft2 fft_irfft2 fft_rfft2 fill flatten flip floor floor_divide
    fmod frobenius_norm full full_like gather ge gelu glu greater greater_equal grid_sampler
    grid_sampler_2d group_norm gt hardshrink hardsigmoid hardswish hardtanh im2col index index_put
    index_select instance_norm isfinite isinf isnan layer_norm le leaky_relu lerp less less_equal
    lift_fresh_copy linalg_norm linalg_vector_norm linear linspace log log10 log1p log2
    log_sigmoid log_softmax _log_softmax logical_and logical_not logical_or logical_xor logsumexp
    lt masked_fill matmul max max_pool1d max_pool2d max_pool2d_with_indices max_pool3d maximum
    mean meshgrid min minimum mish mm moveaxis movedim mul multiply mv narrow native_batch_norm
    _native_batch_norm_legit_no_training native_dropout native_group_norm native_layer_norm ne neg
    negative new_empty new_full new_ones new_zeros norm numpy_T ones ones_like pad permute
    pixel_shuffle pixel_unshuffle polar positive pow prelu prod rad2deg reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as
    rms_norm roll rot90 round rsqrt rsub scalar_tensor scaled_dot_product_attention
    _scaled_dot_product_flash_attention_for_cpu scatter scatter_add select select_scatter selu
    sigmoid sign silu sin sinh slice slice_scatter _softmax softmax softplus softshrink softsign
    sort split split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum swapaxes
    swapdims sym_numel sym_size sym_stride t tan tanh tensor_split threshold tile to _to_copy topk
    transpose tril triu true_divide trunc type_as unbind unflatten unfold _unsafe_view unsqueeze
    upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_linear1d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d
    upsample_nearest_exact2d var var_mean view view_as where zero zeros zeros_like
    """.split()  # noqa: SIM905
)
_QUANTIZED = frozenset(
    """
    quantize_per_tensor.default dequantize_per_tensor.default quantize_per_tensor.tensor
    dequantize_per_tensor.tensor quantize_per_channel.default dequantize_per_channel.default
    """.split()  # noqa: SIM905
)
# They check shapes and types of the example that a program was exported with.
ASSERTIONS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        *("_assert_scalar.default", "_assert_tensor_metadata.default", "_assert_async.msg"),
        *("sym_constrain_range.default", "sym_constrain_range_for_size.default"),
    )
)
# Functions of sizes.
_OF_SIZES: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "neg", "pow", "floordiv", "truediv", "mod", "and_", "or_"),
            *("eq", "ne", "lt", "le", "gt", "ge", "pos", "not_"),
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("ceil", "floor", "trunc", "sqrt")},
    **{
        f"torch.sym_{name}": getattr(torch, f"sym_{name}")
        for name in ("float", "int", "ite", "max", "min", "not")
    },
}


def is_quantized(target: str) -> bool:
    """Whether a target is an operator that quantizes or dequantizes."""
    namespace, _, name = target.rpartition("quantized_decomposed.")
    return namespace == "torch.ops." and name in _QUANTIZED


def find_operator(target: str) -> Callable[..., Any] | None:
    """The function that a program names, or None if it is not on the list."""
    if target in _OF_SIZES:
        return _OF_SIZES[target]
    if is_quantized(target):
        packet, overload = target.rsplit(".", 2)[1:]
        return _overload(getattr(torch.ops.quantized_decomposed, packet), overload)
    prefix, name, overload = (["", "", *target.rsplit(".", 2)])[-3:]
    if prefix != "torch.ops.aten" or name.removesuffix("_") not in _ATEN:
        return None
    return _overload(getattr(torch.ops.aten, name, None), overload)


def _overload(packet: Any, name: str) -> Callable[..., Any] | None:
    exists = packet is not None and name in packet.overloads()
    found: Callable[..., Any] | None = getattr(packet, name) if exists else None
    return found
