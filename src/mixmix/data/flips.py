"""Whether mirrored images keep their class: not those of text, digits, or left and right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from mixmix.data.image_set import ImageSet
from mixmix.data.labels import label_agreement
from mixmix.errors import warn
from mixmix.models.classes import list_some, tell_sides
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec

__all__ = ["LEAST_AGREEMENT", "flip_agreement", "warn_of_names", "with_flips_decided"]

# Images are mirrored if at least this fraction of them keeps its class; judged by so many images,
# if most soft labels agree with the labels (noise has no class that it could keep).
LEAST_AGREEMENT = 0.75
_FEWEST, _MOST, _MEANT = 16, 128, 0.5


@torch.no_grad()
def flip_agreement(predict: Callable[[Tensor], Tensor], data: ImageSet) -> float | None:
    """Fraction of images that get the same class when mirrored.

    None if it cannot be told: of few images, of noise, and without classes.

    Args:
        predict: logits or probabilities (N, K) of images (N, C, H, W).
        data: the images.
    """
    meant = label_agreement(data.soft_labels, data.labels) or 0.0
    if len(data) < _FEWEST or meant < _MEANT:
        return None
    chosen = torch.linspace(0, len(data) - 1, min(len(data), _MOST)).long()
    images = data.images[chosen]
    both = (predict(each).argmax(1) for each in (images, images.flip(3)))
    return float(torch.eq(*both).float().mean())


def with_flips_decided(model: Model, data: ImageSet) -> ModelSpec:
    """The network's spec, with ``flip`` off if it is undecided and mirrored images change class.

    That is, if ``flip`` is off for a network that made the images, if names of the classes say so,
    or if less than 75% of the images keep their class when mirrored. The last two are said in a
    warning.
    """
    spec = model.spec
    made_by = data.manifest.get("models", ())
    if spec.flip is not None:
        return spec
    if not any(each.get("flip") is False for each in made_by) and not _warn_of(model, data):
        return spec
    return replace(spec, flip=False)


def _warn_of(model: Model, data: ImageSet) -> bool:
    """Whether names or predictions say that mirrored images change class; this is said."""
    spec = model.spec
    named = spec if spec.classes else replace(spec, classes=_names(spec, data))
    if not named.may_flip:
        warn_of_names([named])
        return True
    agreement = flip_agreement(model.logits, data) if model.has_label_head else None
    if agreement is None or agreement >= LEAST_AGREEMENT:
        return False
    warn(
        f"{spec.name} gives only {100 * agreement:.0f}% of the images the same class when "
        "mirrored, so that images are not mirrored; set flip of its spec to decide yourself"
    )
    return True


def _names(spec: ModelSpec, data: ImageSet) -> tuple[str, ...]:
    names = data.class_names
    return names if len(names) == spec.num_classes else ()


def warn_of_names(specs: Iterable[ModelSpec]) -> None:
    """Warn if names of classes alone switch flips off."""
    for spec in specs:
        if spec.flip is None and tell_sides(spec.classes):
            warn(
                f"images are not mirrored, since classes of {spec.name} ({list_some(spec.classes)})"
                " tell left from right; set flip of its spec to decide yourself"
            )
            return
