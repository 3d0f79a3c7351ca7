"""ONNX with real integers: quantizers as QuantizeLinear and DequantizeLinear, weights packed."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx
import torch
from onnxscript import opset21 as op
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compression.method import Compressed
from mixmix.compression.quantized import QuantizedActivation, QuantizedLayer
from mixmix.errors import DataError, ExportError, InputError
from mixmix.exporters.onnx_graph import keep_floats_exact, pack_weights, strip_notes
from mixmix.exporters.session import OnnxSession
from mixmix.seeding import generator
from mixmix.zoo.spec import ModelSpec
from mixmix.zoo.teacher import Teacher, normalise

__all__ = ["check_agreement", "onnx_bytes", "probe_images"]

_OPSET = 21
_MIN_PROBE_IMAGES = 32
# Kernels for u8 activations and s8 weights on x86 without VNNI add pairs of products in signed
# 16 bits and saturate; 2 * 255 * 64 still fits.
_LARGEST_SAFE_WEIGHT = 64

# PyTorch's exporter cannot write quantizers below 8 bits. Two operators of our own pass through
# it untouched, and are translated into ONNX below; they are never run.


@torch.library.custom_op("mixmix::quantize_activation", mutates_args=())
def _quantize_activation(x: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    raise NotImplementedError("stands for ONNX nodes")


@_quantize_activation.register_fake
def _(x: Tensor, scale: float, zero_point: int, bits: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mixmix::dequantize_weight", mutates_args=())
def _dequantize_weight(
    integers: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int
) -> Tensor:
    raise NotImplementedError("stands for ONNX nodes")


@_dequantize_weight.register_fake
def _(integers: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)


def _translate_activation(x: Any, scale: float, zero_point: int, bits: int) -> Any:
    def constant(data_type: int, value: float) -> Any:
        return op.Constant(value=onnx.helper.make_tensor("value", data_type, [], [value]))

    storage_bits, storage = next(
        (width, data_type)
        for width, data_type in (
            # Not UINT4: ONNX Runtime 1.32 refuses models in which Clip or MaxPool stands beside
            # such a quantizer, and activations take no space in the file.
            (8, onnx.TensorProto.UINT8),
            (16, onnx.TensorProto.UINT16),
        )
        if bits <= width
    )
    if bits < storage_bits:
        lowest = constant(onnx.TensorProto.FLOAT, -zero_point * scale)
        highest = constant(onnx.TensorProto.FLOAT, (2**bits - 1 - zero_point) * scale)
        x = op.Clip(x, lowest, highest)
    step = constant(onnx.TensorProto.FLOAT, scale)
    zero = constant(storage, zero_point)
    return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)


def _translate_weight(integers: Any, scale: Any, zero_point: Any, bits: int) -> Any:
    if bits <= 4:
        integers = op.Cast(integers, to=onnx.TensorProto.INT4)
        if zero_point is not None:
            zero_point = op.Cast(zero_point, to=onnx.TensorProto.INT4)
    return op.DequantizeLinear(integers, scale, zero_point, axis=0)


_TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.mixmix.quantize_activation.default: _translate_activation,
    torch.ops.mixmix.dequantize_weight.default: _translate_weight,
}


class _Activation(nn.Module):
    """Stands for a ``QuantizedActivation`` during export."""

    def __init__(self, source: QuantizedActivation) -> None:
        super().__init__()
        if source.bits > 16:
            raise ExportError(
                f"ONNX stores activations in at most 16 bits, got {source.bits}; quantize to fewer"
            )
        self.scale = float(source.scale)
        self.zero_point = int(source.zero_point)
        self.bits = source.bits

    def forward(self, x: Tensor) -> Tensor:
        quantized: Tensor = _quantize_activation(x, self.scale, self.zero_point, self.bits)
        return quantized


class _Layer(nn.Module):
    """Stands for a ``QuantizedLayer`` during export."""

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None
    bias: Tensor | None

    def __init__(self, source: QuantizedLayer, *, signed: bool) -> None:
        super().__init__()
        self.bits = source.bits
        self.convolution: dict[str, Any] | None = source.convolution
        integers, zero_point = source.integers, source.zero_point
        if not signed and int(integers.to(torch.int16).abs().amax()) > _LARGEST_SAFE_WEIGHT:
            if zero_point is None:
                zero_point = torch.zeros(len(integers), dtype=torch.int8)
            integers, zero_point = (
                (tensor.to(torch.int16) + 128).to(torch.uint8) for tensor in (integers, zero_point)
            )
        self.register_buffer("integers", integers.contiguous())
        self.register_buffer("scale", source.scale)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("bias", source.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = _dequantize_weight(self.integers, self.scale, self.zero_point, self.bits)
        if self.convolution is None:
            return F.linear(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, **self.convolution)


def onnx_bytes(compressed: Compressed, *, signed_weights: bool = False) -> bytes:
    """The model as an ONNX file; see ``mixmix.export``.

    Raises:
        ExportError: if PyTorch cannot translate the model.
    """
    from mixmix import __version__

    spec = compressed.spec
    module = _exportable(compressed.model, signed_weights=signed_weights)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (torch.zeros(2, *spec.input_shape),),
                dynamo=True,
                opset_version=_OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                custom_translation_table=_TRANSLATIONS,
                verbose=False,
            )
            assert program is not None
            model = program.model_proto
        except Exception as error:  # each stage of the exporter raises its own kinds
            cause = error.__cause__ or error
            raise ExportError(
                f"{spec.name} cannot be exported to ONNX: {type(cause).__name__}: "
                f"{(str(cause).strip() or 'no reason given').splitlines()[0]}"
            ) from error
    pack_weights(model.graph)
    keep_floats_exact(model.graph)
    strip_notes(model)
    model.producer_name, model.producer_version = "mixmix", __version__
    onnx.helper.set_model_props(
        model,
        {
            "mixmix.spec": json.dumps(spec.to_dict()),
            "mixmix.settings": json.dumps(list(compressed.settings)),
            "mixmix.version": __version__,
        },
    )
    return bytes(model.SerializeToString(deterministic=True))


def _exportable(model: nn.Module, *, signed_weights: bool) -> nn.Module:
    """A copy on the CPU, in eval mode, its quantized modules replaced by their stand-ins."""
    copied = copy.deepcopy(model).cpu().eval()
    # A module used in two places stays one module, and its weights one initializer.
    replaced: dict[nn.Module, nn.Module] = {}

    def stand_in(module: nn.Module) -> nn.Module:
        if module not in replaced:
            if isinstance(module, QuantizedActivation):
                replaced[module] = _Activation(module)
            elif isinstance(module, QuantizedLayer):
                replaced[module] = _Layer(module, signed=signed_weights)
            else:
                replaced[module] = module
                # Not named_children, which leaves out the second place of a shared module.
                for name, child in list(module._modules.items()):
                    if child is not None:
                        setattr(module, name, stand_in(child))
        return replaced[module]

    return stand_in(copied).eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress, hints and warnings from the terminal."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def probe_images(spec: ModelSpec, num_images: int = 100) -> Tensor:
    """Smooth noise (N, C, H, W) in [0, 1], always the same for the same shape."""
    draws = generator(0, "export probe")
    channels, height, width = spec.input_shape
    coarse = torch.rand(
        num_images, channels, max(height // 8, 2), max(width // 8, 2), generator=draws
    )
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    fine = torch.randn(num_images, channels, height, width, generator=draws)
    return (smooth + 0.1 * fine).clamp_(0, 1)


@torch.no_grad()
def check_agreement(
    content: bytes,
    compressed: Compressed,
    probe: Tensor | None,
    *,
    min_agreement: float,
    max_logit_error: float,
) -> tuple[float, float]:
    """Run the ONNX file and the model on the probe images; see ``mixmix.export``.

    Returns:
        The agreement in percent and the mean relative error of the logits.

    Raises:
        InputError: if the probe images do not fit.
        ExportError: if file and model do not agree.
    """
    spec = compressed.spec
    images = probe_images(spec) if probe is None else probe.detach().cpu().float()
    if images.ndim != 4 or images.shape[1] != spec.input_shape[0]:
        raise InputError(
            f"probe images must be (N, {spec.input_shape[0]}, H, W), got {tuple(images.shape)}"
        )
    if len(images) < _MIN_PROBE_IMAGES:
        raise InputError(
            f"got {len(images)} probe images, at least {_MIN_PROBE_IMAGES} are needed; leave out "
            "probe to take noise"
        )
    model = Teacher(compressed.model, spec)
    try:
        session = OnnxSession(content)
    except DataError as error:
        raise ExportError(f"{spec.name} was exported in vain: {error}") from error
    expected, actual = [], []
    for batch in images.split(25):
        expected.append(model(batch))
        actual.append(session.run(normalise(batch, spec)))
    wanted, got = torch.cat(expected), torch.cat(actual)
    for name, logits in (("model", wanted), ("ONNX file", got)):
        if not bool(torch.isfinite(logits).all()):
            raise ExportError(f"the {name} of {spec.name} gives NaN or infinite logits")
    if wanted.shape != got.shape:
        raise ExportError(
            f"the ONNX file of {spec.name} gives logits of shape {tuple(got.shape)}, the model "
            f"gives {tuple(wanted.shape)}"
        )
    centred = wanted - wanted.mean(1, keepdim=True)
    lengths = torch.linalg.vector_norm(centred, dim=1).clamp_min(1e-12)
    logit_error = float((torch.linalg.vector_norm(got - wanted, dim=1) / lengths).mean())
    same = wanted.argmax(1) == got.argmax(1)
    # Rounding flips single levels. Where that much decides between two classes of the model
    # itself, the file is not to blame; a real fault changes clear decisions as well.
    lead = wanted.amax(1) - wanted.gather(1, got.argmax(1, keepdim=True)).squeeze(1)
    spread = lengths / wanted.shape[1] ** 0.5
    excused = lead <= max_logit_error * spread
    agreement = 100 * int(same.sum()) / len(same)
    checked = 100 * int((same | excused).sum()) / len(same)
    if checked < min_agreement or logit_error > max_logit_error:
        raise ExportError(
            f"the ONNX file of {spec.name} does not agree with the model on {len(images)} images: "
            f"same class on {checked:.1f}% (at least {min_agreement:g}% expected), relative "
            f"error of the logits {logit_error:.4f} (at most {max_logit_error:g}); nothing was "
            "written. Give synthetic images as probe if noise says little about this model"
        )
    return agreement, logit_error
