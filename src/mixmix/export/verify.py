"""Comparison of an exported file with its model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.compress.method import Compressed
from mixmix.errors import ExportError, InputError
from mixmix.export.levels import check_levels
from mixmix.graph.quantized import QuantizedActivation
from mixmix.models.model import Model, normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtime.seeding import generator

__all__ = [
    "MIN_PROBE_IMAGES",
    "check_agreement",
    "check_steps",
    "logit_error",
    "noisy_logits",
    "probe_images",
]

MIN_PROBE_IMAGES = 32
_BATCH = 25
# Images on which quantizers are compared; each has thousands of values.
_NUM_COMPARED = 4
# In quantization steps: above rounding errors of floats and of biases in integer kernels, and far
# below any fault.
_NOISE = 0.01
# The error allowed, over the model's own error with that noise; it varies by chance.
_OWN_ERRORS = 1.5
# Two standard deviations of the difference of two logits, over that of one.
_MARGIN_ERRORS = 2 * 2**0.5


def probe_images(spec: ModelSpec, probe: Tensor | None = None, num_images: int = 100) -> Tensor:
    """The images on which file and model are compared.

    Args:
        spec: of the model.
        probe: images (N, C, H, W) in [0, 1]; None for smooth noise, the same in every call.
        num_images: of noise.

    Raises:
        InputError: if there are too few.
    """
    channels, height, width = spec.input_shape
    if probe is not None:
        if len(probe) < MIN_PROBE_IMAGES:
            raise InputError(
                f"got {len(probe)} probe images, expected at least {MIN_PROBE_IMAGES}; omit probe "
                "to use noise"
            )
        return probe.detach().cpu().float()
    draws = generator(0, "export probe")
    coarse = torch.rand(
        num_images, channels, max(height // 8, 2), max(width // 8, 2), generator=draws
    )
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    fine = torch.randn(num_images, channels, height, width, generator=draws)
    return (smooth + 0.1 * fine).clamp_(0, 1)


@torch.no_grad()
def check_agreement(
    run: Callable[[Tensor], Tensor],
    compressed: Compressed,
    images: Tensor,
    *,
    min_agreement: float,
    max_logit_error: float,
    outputs: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> tuple[float, float]:
    """Compare a file's logits with the model's; see ``mixmix.export``.

    Networks of few bits amplify rounding errors of sums: they change quantized values, and these
    change others in later layers. Logits then differ between any two runtimes by more than
    ``max_logit_error``, and about as much as with noise of a hundredth of a step before every
    rounding. Such an error, and as many changed classes, are allowed.

    Args:
        run: the file: normalized images (N, C, H, W) to logits (N, K).
        compressed: the model.
        images: (N, C, H, W) in [0, 1].
        min_agreement: minimum percentage of images with the same class.
        max_logit_error: maximum relative error of the logits.
        outputs: what the file tells of the model's logits.

    Returns:
        The agreement in percent and the mean relative error of the logits.

    Raises:
        ExportError: if file and model do not agree.
    """
    spec = compressed.spec
    model = Model(compressed.module, spec)
    batches = images.split(_BATCH)
    wanted = outputs(torch.cat([model(batch) for batch in batches]))
    got = torch.cat([run(normalize(batch, spec)) for batch in batches])
    for name, logits in (("model", wanted), ("exported file", got)):
        if not bool(torch.isfinite(logits).all()):
            raise ExportError(f"the {name} of {spec.name} returns NaN or infinite logits")
    if wanted.shape != got.shape:
        raise ExportError(
            f"the exported file of {spec.name} returns logits of shape {tuple(got.shape)}, the "
            f"model returns {tuple(wanted.shape)}"
        )
    wanted, got = wanted.flatten(1), got.flatten(1)  # which may be maps without classes
    agreement = 100 * int((wanted.argmax(1) == got.argmax(1)).sum()) / len(got)
    error = logit_error(got, wanted)

    def checked(logits: Tensor, allowed: float) -> float:
        # Changes between classes whose logits differ by less than the error do not count; a fault
        # changes clear decisions as well. The error of a logit is relative to the spread (root
        # mean square) of the image's logits; the error of a difference is larger.
        margin = wanted.amax(1) - wanted.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
        spread = (wanted - wanted.mean(1, keepdim=True)).std(1, correction=0)
        is_close = margin <= _MARGIN_ERRORS * allowed * spread
        same = wanted.argmax(1) == logits.argmax(1)
        return 100 * int((same | is_close).sum()) / len(same)

    allowed, least = max_logit_error, min_agreement if spec.num_classes else 0.0
    if error > allowed or checked(got, allowed) < least:
        noisy = outputs(noisy_logits(compressed, images)).flatten(1)
        allowed = max(allowed, _OWN_ERRORS * logit_error(noisy, wanted))
        # Errors of single images may be a multiple of their mean.
        least -= 100 - checked(noisy, allowed)
    if error > allowed or checked(got, allowed) < least:
        raise ExportError(
            f"the exported file of {spec.name} does not agree with the model on {len(images)} "
            f"images: same class on {checked(got, allowed):.1f}% (at least {least:g}% "
            f"expected), relative error of the logits {error:.4f} (at most {allowed:.4g}); "
            "nothing was written. Pass synthetic images as probe if the model is not meaningful on "
            "noise"
        )
    return agreement, error


def check_steps(
    content: bytes, format: str, compressed: Compressed, images: Tensor, *, max_logit_error: float
) -> None:
    """Compare a file with the model at every quantizer, on the first images; see ``levels``.

    Args:
        content: of the file.
        format: ``onnx``, ``pt2e`` or ``sparse``.
        compressed: the model.
        images: (N, C, H, W) in [0, 1].
        max_logit_error: of the layers behind the last quantizer.

    Raises:
        ExportError: if they do not agree.
    """
    is_quantized = any(isinstance(m, QuantizedActivation) for m in compressed.module.modules())
    if format == "sparse" or not is_quantized:
        return
    images = images[:_NUM_COMPARED]
    inputs = normalize(images, compressed.spec)
    # These take seconds to import.
    if format == "onnx":
        from mixmix.export.onnx.levels import onnx_levels

        levels, got = onnx_levels(content, inputs)
    else:
        from mixmix.export.pt2e import pt2e_levels

        levels, got = pt2e_levels(content, inputs)
    wanted = check_levels(levels, compressed, images)
    if got.shape == wanted.shape and not (error := logit_error(got, wanted)) <= max_logit_error:
        raise ExportError(
            f"the exported file of {compressed.spec.name} computes something else than the model "
            f"behind the last quantizer: relative error of the logits {error:.4f} (at most "
            f"{max_logit_error:g}); nothing was written"
        )


@torch.no_grad()
def noisy_logits(compressed: Compressed, images: Tensor) -> Tensor:
    """The model's logits (N, K) with noise of a hundredth of a step before every rounding.

    Args:
        compressed: the model; it is not changed.
        images: (N, C, H, W) in [0, 1].
    """
    model = Model(compressed.module, compressed.spec)  # a copy
    draws = generator(0, "export nudge")

    def add_noise(quantizer: torch.nn.Module, inputs: tuple[Tensor]) -> Tensor:
        assert isinstance(quantizer, QuantizedActivation)
        noise = 2 * torch.rand(inputs[0].shape, generator=draws) - 1
        return inputs[0] + _NOISE * quantizer.scale * noise

    for module in model.module.modules():
        if isinstance(module, QuantizedActivation):
            module.register_forward_pre_hook(add_noise)
    return torch.cat([model(batch) for batch in images.split(_BATCH)])


def logit_error(logits: Tensor, wanted: Tensor) -> float:
    """Mean norm of the error of outputs (N, ...), over the spread of those wanted between images.

    The spread is at least a hundredth of the outputs themselves: a model that returns nearly the
    same for all images has rounding errors, too.
    """
    logits, wanted = logits.flatten(1), wanted.flatten(1)
    size = torch.linalg.vector_norm(wanted) / len(wanted) ** 0.5
    spread = torch.linalg.vector_norm(wanted - wanted.mean(0)) / len(wanted) ** 0.5
    errors = torch.linalg.vector_norm(logits - wanted, dim=1)
    return float(errors.mean() / torch.maximum(spread, 0.01 * size).clamp_min(1e-12))
