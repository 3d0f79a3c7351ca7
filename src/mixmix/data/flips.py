"""Whether mirrored images keep their class: not those of text, digits, or left and right."""

from __future__ import annotations

from dataclasses import replace

import torch

from mixmix.data.image_set import ImageSet, label_agreement
from mixmix.errors import warn
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec

__all__ = ["flip_agreement", "with_flips_decided"]

# Images are mirrored if at least this fraction of them keeps its class; judged by so many images,
# if most soft labels agree with the labels (noise has no class that it could keep).
_LEAST_AGREEMENT, _FEWEST, _MOST, _MEANT = 0.75, 16, 128, 0.5


@torch.no_grad()
def flip_agreement(model: Model, data: ImageSet) -> float | None:
    """Fraction of images that the network gives the same class when mirrored.

    None if it cannot be told: of few images, of noise, and of networks without classes.
    """
    meant = label_agreement(data.soft_labels, data.labels) or 0.0
    if len(data) < _FEWEST or meant < _MEANT or not model.has_label_head:
        return None
    chosen = torch.linspace(0, len(data) - 1, min(len(data), _MOST)).long()
    images = data.images[chosen]
    both = (model.logits(each).argmax(1) for each in (images, images.flip(3)))
    return float(torch.eq(*both).float().mean())


def with_flips_decided(model: Model, data: ImageSet) -> ModelSpec:
    """The network's spec, with ``flip`` off if it is undecided and mirrored images change class.

    This is said in a warning. Flips stay on if at least 75% of the images keep their class.
    """
    if model.spec.flip is not None:
        return model.spec
    agreement = flip_agreement(model, data)
    if agreement is None or agreement >= _LEAST_AGREEMENT:
        return model.spec
    warn(
        f"{model.spec.name} gives only {100 * agreement:.0f}% of the images the same class when "
        "mirrored, so that images are not mirrored; set flip of its spec to decide yourself"
    )
    return replace(model.spec, flip=False)
