"""``compress``: apply methods to a pretrained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from mixmix.compress.method import Compressed, Method
from mixmix.compress.quantize.bits import parse_bits
from mixmix.compress.quantize.quantize import Quantize
from mixmix.data.flips import with_flips_decided
from mixmix.data.image_set import ImageSet
from mixmix.data.images import Images, as_image_set
from mixmix.errors import InputError
from mixmix.models.loading import Reference, load
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec
from mixmix.runtime.allocator import keeping_freed_memory
from mixmix.runtime.progress import Progress, showing
from mixmix.synthesis.automatic import settings_for
from mixmix.synthesis.synthesize import synthesize

__all__ = ["compress"]

_BITS = "W8A8"
# Images that a network must have finite outputs for.
_PROBE_IMAGES = 16


@keeping_freed_memory()
def compress(
    model: Reference,
    images: Images | None = None,
    methods: Method | str | Sequence[Method | str] | None = None,
    *,
    bits: str | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
    **spec: Any,
) -> Compressed:
    """Compress a pretrained network with images instead of its training data.

    Args:
        model: anything that ``load`` takes, such as ``"bundled:resnet"`` or a ``Model``; it is not
            changed.
        images: an ``ImageSet``, a folder, a tensor (N, C, H, W) in [0, 1], a ``Dataset`` or a
            ``DataLoader``; images of another size are resized. None synthesizes images from the
            model with ``settings_for`` (in ``mixmix.synthesis.automatic``), unless the methods
            generate their own, as ``Distill`` with ``GeneratedImages`` does.
        methods: one or several methods, applied in order, such as ``Quantize("W4A4")``; bits such
            as ``"W4A4"`` mean ``Quantize("W4A4")``. None is ``Quantize(bits)``.
        bits: instead of methods; W8A8 by default.
        seed: seed of every random draw.
        on_progress: called with (a description, fraction done in [0, 1]); None shows progress on
            standard error.
        spec: arguments of ``load``, such as ``input_shape``, ``mean`` and ``std`` of a module.

    Raises:
        InputError: if there is no method, the model does not specify its fields or returns NaN, or
            the images do not fit it.
        DataError: if images cannot be read or are not in [0, 1].

    Examples:
        >>> images, _ = mixmix.load_evaluation_pack().tensors
        >>> mixmix.compress("bundled:vgg", images[:32], "W8A8")
        Compressed(model=vgg, methods=(quantize), ...)

        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
        >>> small = mixmix.compress(net, input_shape=(3, 4, 4), mean=0.5, std=0.25, bits="W4A8")
    """
    if methods is not None and bits is not None:
        raise InputError(f"got methods and bits={bits!r}; leave out one of them")
    steps = _methods(methods if methods is not None else bits or _BITS)
    network = load(model, **spec)
    with showing("compressing", on_progress) as advance:
        if images is not None:
            data = as_image_set(images, network)
        elif any(getattr(step, "needs_images", True) for step in steps):
            data = synthesize(network, settings_for(network), seed=seed, on_progress=advance)
        else:
            data = _no_images(network.spec)
        _check_finite(network, data)
        compressed = Compressed(network.module, with_flips_decided(network, data))
        for step in steps:
            compressed = step.apply(compressed, data, seed=seed, on_progress=advance)
    return compressed


def _methods(given: Method | str | Sequence[Method | str]) -> list[Method]:
    several = [given] if isinstance(given, str) or not isinstance(given, Sequence) else given
    if not several:
        raise InputError("compress needs at least one method, such as Quantize('W8A8')")
    return [_method(each) for each in several]


def _method(given: Method | str) -> Method:
    if isinstance(given, str):
        parse_bits(given)
        return Quantize(given)
    if not callable(getattr(given, "apply", None)) or isinstance(given, type):
        raise InputError(
            f"{given!r} is not a method; expected bits such as 'W8A8', or an object with apply, "
            "such as Quantize('W8A8')"
        )
    return given


def _check_finite(network: Model, data: ImageSet) -> None:
    """Raise an ``InputError`` if the network has no finite outputs for a few of the images."""
    few = data.images[:_PROBE_IMAGES]
    if not len(few) or not network.has_label_head:
        return
    with torch.no_grad():
        if not bool(torch.isfinite(network.logits(few)).all()):
            raise InputError(
                f"{network.spec.name} gives NaN or infinite logits for the images; check its "
                "weights, mean and std"
            )


def _no_images(spec: ModelSpec) -> ImageSet:
    labels = torch.zeros(0, dtype=torch.long)
    soft_labels = torch.zeros(0, spec.num_classes)
    return ImageSet(torch.zeros(0, *spec.input_shape), labels, soft_labels, {})
