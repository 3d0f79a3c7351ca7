"""Recovery: what a network lost by pruning is recovered from the network that it was made from.

Three strengths, alone or one after another. Each knows of the student no more than that it has the
layers of its teacher, some weights of which are held at zero, and some of which may be narrower; so
that all serve unstructured, N:M and channel pruning alike.
"""

from __future__ import annotations

import copy
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
    "sizes_of_parameters",
    "iterate_units",
]


@dataclass(frozen=True)
class RecoveryContext:
    """A student that is to recover, beside its teacher.

    Attributes:
        student: its module and its graph, whose shared weights are changed in place.
        pairs: units of the student and of the teacher, in order.
        data: images in [0, 1].
        spec: how both want them to be normalized.
        masks: by the name of a weight of the student: what is False stays zero.
        kept_channels: by the name of a layer or BatchNorm that is narrower than the teacher's:
            which of the teacher's output channels it has.
        seed: of every random draw.
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
        """Images as the networks' own code takes them: in the order of memory of the weights."""
        images = normalize(images.to(self.device), self.spec)
        return images.contiguous(memory_format=layout_of_model(self.student.module))

    def store(self) -> ActivationStore:
        """Room for what enters and leaves the units."""
        example = self.prepared(self.data.images[:2])
        return ActivationStore(
            default_memory_gib(self.device),
            batch_size=images_at_a_time(self.student.graph_module, example),
            device=self.device,
        )


class Recovery(Settings, ABC):
    """A way to recover: frozen settings and how to apply them.

    A subclass is a frozen dataclass with a ``kind``; see ``docs/extending.md``. Any other object
    with these attributes does as well.

    Attributes:
        adapts_weights: whether weights make up for what was pruned, and not statistics alone; the
            defaults of pruning follow from it.
        adapts_units: whether every unit is fitted to what enters it by now, so that weights can be
            pruned in rounds.
        uses_checkpoints: whether it has a field ``checkpoints``, a folder from which a run goes on.
    """

    family: ClassVar[str] = "recovery"
    modules: ClassVar[tuple[str, ...]] = (
        "mixmix.compress.recover.batch_norm",
        "mixmix.compress.recover.features",
        "mixmix.compress.recover.fine_tuning",
    )
    adapts_weights: ClassVar[bool] = True
    adapts_units: ClassVar[bool] = False
    uses_checkpoints: ClassVar[bool] = False

    @abstractmethod
    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Change the student's weights and statistics in place."""

    def shortened(self, fraction: float) -> Recovery | None:
        """The same in a fraction of its steps, for between the rounds of pruning.

        None leaves it to the end; between the rounds, features are reconstructed anyway.
        """
        return None


def as_recoveries(given: Recovery | Sequence[Recovery] | None) -> tuple[Recovery, ...]:
    """One, several in order, or none."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Sequence) else (given,)


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
    """Let a copy of a student recover what its teacher computes.

    Args:
        student: takes normalized images (N, C, H, W) and gives logits (N, K); it is not changed.
        teacher: the same, with layers of the same names, which may have more channels.
        data: images, as for ``compress``.
        spec: of the teacher.
        recovery: one, or several to apply in order.
        masks: by the name of a weight of the student, bool of its shape: what is False is zero
            in the result too.
        kept_channels: by the name of a layer or BatchNorm of the student that is narrower, which
            output channels of the teacher's it has. Where nothing tells it, only what has equal
            shapes is compared: the ends of residual units, or the logits alone.
        seed: of every random draw.
        on_progress: called with (what is being done, fraction done).

    Returns:
        The student's copy, in eval mode, without gradients.

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
    student = copy.deepcopy(student).eval().requires_grad_(False)
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
    """Cut both networks into units and put them side by side; see ``recover``.

    ``student`` is what recovery changes in place.
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
                f"a mask of shape {tuple(mask.shape)} is named {name}, which is no weight of that "
                "shape in the model; masks are named like the model's own parameters"
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
    """A pair of units and what enters and leaves them, for all images.

    Attributes:
        index: of the pair, from 0.
        pair: the units.
        inputs: (N, ...) what the student's gets from the units before it, as they are by now.
        teacher_inputs: (N, ...) what the teacher's gets.
        teacher_outputs: (N, ...) what it gives.
    """

    index: int
    pair: UnitPair
    inputs: Tensor
    teacher_inputs: Tensor
    teacher_outputs: Tensor

    @property
    def targets(self) -> Tensor:
        """(N, ...) what the student's unit is to give."""
        return select_channels(self.teacher_outputs, self.pair.channels)


def iterate_units(
    context: RecoveryContext, store: ActivationStore, *, views: int = 0
) -> Iterator[UnitStep]:
    """Go from unit to unit; what the visitor changes in one is seen by those behind it.

    Mixtures join the images until they are ``views``.
    """
    images = with_mixtures(context.data.images, views, seed=context.seed)
    inputs = teacher_inputs = store.run(context.prepared, images)
    for index, pair in enumerate(context.pairs):
        teacher_outputs = store.run(pair.teacher.module, teacher_inputs)
        yield UnitStep(index, pair, inputs, teacher_inputs, teacher_outputs)
        if index + 1 < len(context.pairs):
            inputs = store.run(pair.student.module, inputs)
            teacher_inputs = teacher_outputs


def sizes_of_parameters(module: nn.Module) -> dict[nn.Parameter, float]:
    """What a change of each parameter is measured by, so that rates mean the same everywhere.

    The root mean square of the weights of a layer that are not zero; for its biases what as many
    of them as make a sum amount to, with random signs; for the shifts of a normalization that of
    its factors.
    """
    sizes: dict[nn.Parameter, float] = {}
    for part in module.modules():
        own = dict(part.named_parameters(recurse=False))
        for name, parameter in own.items():
            weight = own.get("weight", parameter)
            size = _root_mean_square(weight)
            if name == "bias" and weight.ndim > 1:
                size *= math.sqrt(max(1, int((weight != 0).sum()) / len(weight)))
            sizes[parameter] = size
    return sizes


def _root_mean_square(weight: Tensor) -> float:
    used = weight.detach()[weight.detach() != 0]
    return float(used.square().mean().sqrt()) if len(used) else 1.0
