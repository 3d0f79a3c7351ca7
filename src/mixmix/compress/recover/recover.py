"""Recovery of a pruned network from the network that it was made from.

Recoveries only assume that the student has the layers of its teacher, possibly with masks or fewer
channels. Hence they work after unstructured, N:M and channel pruning.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix._settings import Settings
from mixmix.compress.activation_store import (
    ActivationStore,
    default_memory_gib,
    images_at_a_time,
)
from mixmix.compress.method import Progress
from mixmix.data.image_set import ImageSet
from mixmix.data.images import Images, as_image_set
from mixmix.data.views import with_mixtures
from mixmix.errors import InputError
from mixmix.graph.masks import set_zeros
from mixmix.graph.shared import SharedGraph, share_graph
from mixmix.graph.unit_pairs import UnitPair, pair_units, select_channels
from mixmix.models.model import Model, normalize
from mixmix.models.plain_copy import plain_copy
from mixmix.models.spec import ModelSpec
from mixmix.runtime.memory_layout import layout_of_model

__all__ = [
    "RecoveryContext",
    "Recovery",
    "UnitStep",
    "as_recoveries",
    "recovery_context",
    "recover",
    "recover_",
    "parameter_scales",
    "iterate_units",
]


@dataclass(frozen=True)
class RecoveryContext:
    """A student that is to recover, and its teacher.

    Attributes:
        student: its module and graph, which share weights that recovery changes in place.
        pairs: units of the student and the teacher, in order.
        data: images in [0, 1].
        spec: spec of the teacher.
        masks: bool masks by the names of the student's weights; False stays zero.
        kept_channels: for layers and BatchNorms that are narrower than the teacher's, by name: the
            indices of the teacher's output channels that they have.
        seed: seeds every random draw.
    """

    student: SharedGraph
    pairs: tuple[UnitPair, ...]
    data: ImageSet
    spec: ModelSpec
    masks: Mapping[str, Tensor]
    kept_channels: Mapping[str, Tensor]
    seed: int

    @property
    def device(self) -> torch.device:
        return next(self.student.module.parameters()).device

    def prepared(self, images: Tensor) -> Tensor:
        """Normalize images (N, C, H, W) in [0, 1], in the memory format of the weights."""
        images = normalize(images.to(self.device), self.spec)
        return images.contiguous(memory_format=layout_of_model(self.student.module))

    def store(self) -> ActivationStore:
        """A store for the inputs and outputs of units."""
        example = self.prepared(self.data.images[:2])
        return ActivationStore(
            default_memory_gib(self.device),
            batch_size=images_at_a_time(self.student.graph_module, example),
            device=self.device,
        )


class Recovery(Settings, ABC):
    """Base class of recoveries: frozen settings and how to apply them.

    A subclass is a frozen dataclass with a ``kind``; see ``docs/extending.md``. Any other object
    with these attributes works as well.

    Attributes:
        adapts_weights: whether weights change to compensate for pruning, not only statistics.
            Defaults of pruning depend on it.
        adapts_units: whether every unit is fitted to its current inputs, so that weights can be
            pruned in rounds.
    """

    family: ClassVar[str] = "recovery"
    group: ClassVar[str] = "mixmix.recoveries"
    modules: ClassVar[tuple[str, ...]] = (
        "mixmix.compress.recover.batch_norm",
        "mixmix.compress.recover.features",
        "mixmix.compress.recover.fine_tuning",
    )
    adapts_weights: ClassVar[bool] = True
    adapts_units: ClassVar[bool] = False

    @abstractmethod
    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Change the student's weights and statistics in place."""

    def shortened(self, fraction: float) -> Recovery | None:
        """This recovery in a fraction of its steps, to apply between rounds of pruning.

        None skips it there; features are reconstructed between rounds in any case.
        """
        return None


def as_recoveries(given: Recovery | Sequence[Recovery] | None) -> tuple[Recovery, ...]:
    """Convert one recovery, several, or None to a tuple.

    Raises:
        InputError: if one of them has no ``recover_``.
    """
    if given is None:
        return ()
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    for step in several:
        if not callable(getattr(step, "recover_", None)) or isinstance(step, type):
            raise InputError(
                f"{step!r} is not a recovery; expected an object with recover_, such as FineTune()"
            )
    return tuple(several)


def recover(
    student: nn.Module,
    teacher: nn.Module,
    data: Images,
    spec: ModelSpec,
    recovery: Recovery | Sequence[Recovery] | None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    kept_channels: Mapping[str, Tensor] | None = None,
    seed: int = 0,
    on_progress: Progress = lambda what, fraction: None,
) -> nn.Module:
    """Recover a copy of a pruned network.

    Args:
        student: pruned network, from normalized images (N, C, H, W) to logits (N, K); it is not
            changed.
        teacher: network before pruning, with layers of the same names.
        data: images, as for ``compress``.
        spec: spec of the teacher.
        recovery: one recovery, or several to apply in order.
        masks: bool masks by the names of the student's weights, of their shapes; weights are zero
            in the result where they are False.
        kept_channels: for layers and BatchNorms that are narrower than the teacher's, by name: the
            indices of the teacher's output channels that remain. Without it, only features of equal
            shapes are compared, or only the logits.
        seed: seed of every random draw.
        on_progress: called with (a description, fraction done in [0, 1]).

    Returns:
        The recovered copy, in eval mode, without gradients.

    Raises:
        CaptureError: if one of the networks cannot be captured as a graph.
        InputError: if a mask fits no weight, or training diverges.

    Examples:
        >>> import copy
        >>> images, _ = mixmix.load_evaluation_pack().tensors
        >>> teacher = mixmix.load("bundled:vgg")
        >>> student = copy.deepcopy(teacher.module)  # pruned elsewhere, say
        >>> recovered = mixmix.recover(
        ...     student, teacher.module, images[:32], teacher.spec, mixmix.ReestimateBatchNorm()
        ... )
        >>> recovered.training
        False
    """
    student = plain_copy(student, type(student).__name__).requires_grad_(False)
    if not isinstance(data, ImageSet):
        data = as_image_set(data, Model(teacher, spec))
    context = recovery_context(
        student, teacher, data, spec, masks=masks, kept_channels=kept_channels, seed=seed
    )
    recover_(context, recovery, on_progress=on_progress)
    return student


def recovery_context(
    student: nn.Module,
    teacher: nn.Module,
    data: ImageSet,
    spec: ModelSpec,
    *,
    masks: Mapping[str, Tensor] | None = None,
    kept_channels: Mapping[str, Tensor] | None = None,
    seed: int,
) -> RecoveryContext:
    """Split both networks into pairs of units; see ``recover``.

    ``student`` itself is changed by recoveries.
    """
    device = next(student.parameters()).device
    example = normalize(data.images[:4].to(device), spec)
    graphs = [share_graph(module, example) for module in (student, teacher)]
    units = (graphs[0].units(), graphs[1].units())
    pairs = pair_units(
        graphs[0].graph_module,
        graphs[1].graph_module,
        units,
        example,
        kept_channels=kept_channels,
    )
    weights = dict(student.named_parameters())
    for name, mask in (masks or {}).items():
        if name not in weights or weights[name].shape != mask.shape:
            raise InputError(
                f"the model has no weight {name} of shape {tuple(mask.shape)}, as its mask has; "
                "masks must have the names and shapes of the model's parameters"
            )
    return RecoveryContext(
        graphs[0], tuple(pairs), data, spec, dict(masks or {}), dict(kept_channels or {}), seed
    )


def recover_(
    context: RecoveryContext,
    recovery: Recovery | Sequence[Recovery] | None,
    *,
    on_progress: Progress,
) -> None:
    """Apply recoveries in order, in place."""
    set_zeros(context.student.module, context.masks)
    for step in as_recoveries(recovery):
        step.recover_(context, on_progress=on_progress)


@dataclass(frozen=True)
class UnitStep:
    """A pair of units with their inputs and outputs for all images.

    Attributes:
        index: of the pair, from 0.
        pair: the units.
        inputs: (N, ...) inputs of the student's unit, after changes to the units before it.
        teacher_inputs: (N, ...) inputs of the teacher's unit.
        teacher_outputs: (N, ...) outputs of the teacher's unit.
    """

    index: int
    pair: UnitPair
    inputs: Tensor
    teacher_inputs: Tensor
    teacher_outputs: Tensor

    @property
    def targets(self) -> Tensor:
        """(N, ...) targets for the outputs of the student's unit."""
        return select_channels(self.teacher_outputs, self.pair.channels)


def iterate_units(
    context: RecoveryContext, store: ActivationStore, *, views: int = 0
) -> Iterator[UnitStep]:
    """Iterate over pairs of units in order; changes to a unit affect the inputs of later ones.

    Mixtures of the images are added until there are ``views`` images.
    """
    flip = context.spec.may_flip
    images = with_mixtures(context.data.images, views, seed=context.seed, flip=flip)
    inputs = teacher_inputs = store.run(context.prepared, images)
    for index, pair in enumerate(context.pairs):
        teacher_outputs = store.run(pair.teacher.module, teacher_inputs)
        yield UnitStep(index, pair, inputs, teacher_inputs, teacher_outputs)
        if index + 1 < len(context.pairs):
            inputs = store.run(pair.student.module, inputs)
            teacher_inputs = teacher_outputs


def parameter_scales(module: nn.Module) -> dict[nn.Parameter, float]:
    """Scale of each parameter, so that relative learning rates mean the same in every network.

    The root mean square of a layer's nonzero weights. For its biases, that times the square root
    of the mean number of nonzero weights of an output; for BatchNorm's biases, the root mean square
    of its weights.
    """
    scales: dict[nn.Parameter, float] = {}
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        for name, parameter in own.items():
            weight = own.get("weight", parameter)
            scale = _root_mean_square(weight)
            if name == "bias" and weight.ndim > 1:
                scale *= math.sqrt(max(1, int((weight != 0).sum()) / len(weight)))
            scales[parameter] = scale
    return scales


def _root_mean_square(weight: Tensor) -> float:
    used = weight.detach()[weight.detach() != 0]
    return float(used.square().mean().sqrt()) if len(used) else 1.0
