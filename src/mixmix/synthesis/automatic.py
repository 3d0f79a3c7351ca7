"""Settings of synthesis chosen for networks, so that images take minutes on a CPU."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from mixmix.graph.costs import count_macs
from mixmix.models.loading import Reference
from mixmix.models.zoo import Zoo
from mixmix.synthesis.recipes import recipe
from mixmix.synthesis.settings import SynthesisSettings

__all__ = ["settings_for"]

# Multiplications of all forward passes: about ten minutes on two cores, and as long on a GPU for
# networks that need so many.
_BUDGET, _BUDGET_OF_GPUS = 3e12, 3e14
# Of larger images, fewer are made, at a coarse scale first.
_LARGE_SIDE = 96
_FEW_IMAGES, _FEW_AT_A_TIME = 128, 64
_COARSE = (0.5, 1.0)
_FEWEST_ITERATIONS = 24


def settings_for(models: Zoo | Reference | Iterable[Reference]) -> SynthesisSettings:
    """Settings that suit networks, by their layers, input size and cost.

    Small images are made as ``recipe("mixmix")`` makes them. Of images of 96 pixels and more, 128
    are made instead of 256, in batches of 64, and half of the iterations are at half the size. The
    number of iterations falls with the cost of the networks, from 100 to at least 24: statistics of
    BatchNorm, which ranges of activations depend on, are matched first. Networks without BatchNorm
    have recipes of their own, ``without-batch-norm``, or ``procedural`` if there are no classes,
    either.

    Args:
        models: the networks to invert, as for ``synthesize``.

    Raises:
        InputError: if a network cannot be loaded.

    >>> from mixmix.synthesis.automatic import settings_for
    >>> settings_for("bundled:resnet") == mixmix.recipe("mixmix")
    True
    """
    zoo = Zoo.load(models)
    has_batch_norm = any(model.batch_norms for model in zoo)
    settings = recipe(
        "mixmix" if has_batch_norm else "without-batch-norm" if zoo.headed else "procedural"
    )
    if max(zoo.input_shape[1:]) >= _LARGE_SIDE:
        settings = replace(settings, num_images=_FEW_IMAGES, batch_size=_FEW_AT_A_TIME)
        # Drawn images are sharp, and would be blurred by enlarging them.
        settings = replace(settings, scales=_COARSE) if has_batch_norm else settings
    budget = _BUDGET_OF_GPUS if zoo.device.type == "cuda" else _BUDGET
    affordable = math.floor(budget / (settings.num_images * _macs_of_step(zoo, settings)))
    iterations = min(settings.iterations, max(_FEWEST_ITERATIONS, affordable))
    return replace(settings, iterations=iterations)


def _macs_of_step(zoo: Zoo, settings: SynthesisSettings) -> float:
    """Multiplications of one image at one iteration, on average over networks and scales."""
    macs = [count_macs(model.module, model.spec.input_shape) for model in zoo]
    area = sum(scale**2 for scale in settings.scales) / len(settings.scales)
    return max(1.0, area * sum(macs) / len(macs))
