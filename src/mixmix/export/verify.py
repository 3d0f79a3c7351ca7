"""Whether an exported file computes what the model computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mixmix.compress.method import Compressed
from mixmix.errors import ExportError, InputError
from mixmix.graph.quantized import QuantizedActivation
from mixmix.models.model import Model, normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtime.seeding import generator

__all__ = [
    "MIN_PROBE_IMAGES",
    "check_agreement",
    "logit_error",
    "nudged_logits",
    "probe_images",
]

MIN_PROBE_IMAGES = 32
_BATCH = 25
# Fraction of a quantizer's step: above the rounding of floats and of the biases of integer kernels,
# and far below what any real error moves.
_NUDGE = 0.01
# A file may err as much as the model under that nudge, and by chance half as much again.
_OWN_ERRORS = 1.5
# Two standard deviations of the difference of two logits, in those of one.
_LEAD_ERRORS = 2 * 2**0.5


def probe_images(spec: ModelSpec, probe: Tensor | None = None, num_images: int = 100) -> Tensor:
    """The images on which file and model are compared.

    Args:
        spec: of the model.
        probe: the caller's images (N, C, H, W) in [0, 1]; None makes smooth noise, always the
            same for the same shape.
        num_images: of the noise.

    Raises:
        InputError: if they are too few or do not fit the model.
    """
    channels, height, width = spec.input_shape
    if probe is not None:
        if probe.ndim != 4 or probe.shape[1] != channels:
            raise InputError(
                f"probe images must be (N, {channels}, H, W), got {tuple(probe.shape)}"
            )
        if len(probe) < MIN_PROBE_IMAGES:
            raise InputError(
                f"got {len(probe)} probe images, expected at least {MIN_PROBE_IMAGES}; leave out "
                "probe to use noise"
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
) -> tuple[float, float]:
    """Compare a file's logits with the model's; see ``mixmix.export``.

    A network of few bits is chaotic: the last digit of a sum decides which way a value is rounded,
    and a level that moved moves others behind it. Its logits then differ between any two runtimes
    by more than ``max_logit_error``, and as much as they differ from the model's own when every
    value is nudged by a hundredth of a step before it is rounded. That is allowed, too, and that as
    many more classes differ as do then.

    Args:
        run: the file: normalized images (N, C, H, W) to logits (N, K).
        compressed: the model.
        images: (N, C, H, W) in [0, 1].
        min_agreement: least percent of images with the same class.
        max_logit_error: largest relative error of the logits of a model that is not chaotic.

    Returns:
        The agreement in percent and the mean relative error of the logits.

    Raises:
        ExportError: if file and model do not agree.
    """
    spec = compressed.spec
    model = Model(compressed.module, spec)
    batches = images.split(_BATCH)
    wanted = torch.cat([model(batch) for batch in batches])
    got = torch.cat([run(normalize(batch, spec)) for batch in batches])
    for name, logits in (("model", wanted), ("exported file", got)):
        if not bool(torch.isfinite(logits).all()):
            raise ExportError(f"the {name} of {spec.name} gives NaN or infinite logits")
    if wanted.shape != got.shape:
        raise ExportError(
            f"the exported file of {spec.name} gives logits of shape {tuple(got.shape)}, the model "
            f"gives {tuple(wanted.shape)}"
        )
    agreement = 100 * int((wanted.argmax(1) == got.argmax(1)).sum()) / len(got)
    error = logit_error(got, wanted)

    def checked(logits: Tensor, allowed: float) -> float:
        # Where an error of that size decides between two classes, the file is not to blame; a real
        # fault changes clear decisions as well. A logit moves by the error times the spread of
        # the image's logits (root mean square), their differences by more, and some by chance.
        lead = wanted.amax(1) - wanted.gather(1, logits.argmax(1, keepdim=True)).squeeze(1)
        spread = (wanted - wanted.mean(1, keepdim=True)).std(1, correction=0)
        excused = lead <= _LEAD_ERRORS * allowed * spread
        same = wanted.argmax(1) == logits.argmax(1)
        return 100 * int((same | excused).sum()) / len(same)

    allowed, least = max_logit_error, min_agreement
    if error > allowed or checked(got, allowed) < least:
        nudged = nudged_logits(compressed, images)
        allowed = max(allowed, _OWN_ERRORS * logit_error(nudged, wanted))
        # Errors of single images may be a multiple of their mean.
        least -= 100 - checked(nudged, allowed)
    if error > allowed or checked(got, allowed) < least:
        raise ExportError(
            f"the exported file of {spec.name} does not agree with the model on {len(images)} "
            f"images: same class on {checked(got, allowed):.1f}% (at least {least:g}% "
            f"expected), relative error of the logits {error:.4f} (at most {allowed:.4g}); "
            "nothing was written. Pass synthetic images as probe if noise says little about this "
            "model"
        )
    return agreement, error


@torch.no_grad()
def nudged_logits(compressed: Compressed, images: Tensor) -> Tensor:
    """The model's logits (N, K) when all that it rounds moves by a hundredth of a step.

    Args:
        compressed: the model; it is not changed.
        images: (N, C, H, W) in [0, 1].
    """
    model = Model(compressed.module, compressed.spec)  # a copy
    draws = generator(0, "export nudge")

    def nudge(quantizer: torch.nn.Module, inputs: tuple[Tensor]) -> Tensor:
        assert isinstance(quantizer, QuantizedActivation)
        noise = 2 * torch.rand(inputs[0].shape, generator=draws) - 1
        return inputs[0] + _NUDGE * quantizer.scale * noise

    for module in model.module.modules():
        if isinstance(module, QuantizedActivation):
            module.register_forward_pre_hook(nudge)
    return torch.cat([model(batch) for batch in images.split(_BATCH)])


def logit_error(logits: Tensor, wanted: Tensor) -> float:
    """Mean over images of the error of logits (N, K) over the length of those wanted."""
    centered = wanted - wanted.mean(1, keepdim=True)
    lengths = torch.linalg.vector_norm(centered, dim=1).clamp_min(1e-12)
    return float((torch.linalg.vector_norm(logits - wanted, dim=1) / lengths).mean())
