"""Check that images can be optimized through the networks of a zoo."""

from __future__ import annotations

import torch

from mixmix.errors import translate_errors, warn
from mixmix.models.model import Model
from mixmix.models.zoo import Zoo
from mixmix.runtime.seeding import generator

__all__ = ["check_gradients"]


def check_gradients(zoo: Zoo) -> None:
    """Warn about networks whose outputs have no gradient with respect to the images.

    Raises:
        InputError: if a network uses an operation that has no derivative.
    """
    for model in zoo:
        with translate_errors(
            f"{model.spec.name} cannot be differentiated", "replace this operation"
        ):
            found = _has_gradient(model)
        if not found:
            warn(
                f"the outputs of {model.spec.name} have no gradient with respect to the images, so "
                "labels cannot shape images: it rounds, detaches or casts what depends on them"
            )


def _has_gradient(model: Model) -> bool:
    draws = generator(0, "gradients")
    images = torch.rand(2, *model.spec.input_shape, generator=draws).to(model.device)
    images.requires_grad_(True)
    with torch.enable_grad():
        outputs = model(images)
    if not outputs.requires_grad:
        return False
    directions = torch.randn(outputs.shape, generator=draws).to(outputs)
    (gradient,) = torch.autograd.grad(outputs, images, directions, allow_unused=True)
    return gradient is not None and bool(gradient.any())
