"""What the networks of a step saw of a batch: all that a term of the loss may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from mixmix.models.member import Member
from mixmix.models.observation import BatchNormStatistics
from mixmix.models.zoo import Zoo

__all__ = ["BatchObservation", "MemberObservation", "Student"]

# From images (N, C, H, W) in [0, 1] to logits (N, K), differentiable by the images.
Student = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MemberObservation:
    """What one network of the zoo saw, all differentiable by the images.

    Attributes:
        member: the network (``member.model``) and what it takes part with.
        weight: what its losses count in this step.
        logits: (N, K) in the classes of the zoo; None if it knows nothing of these.
        statistics: of every BatchNorm layer, in order of execution; empty without BatchNorm.
        of_tokens: by kind of term, what ``Term.of_tokens`` made of the inputs of LayerNorm layers;
            without entries if the network has none.
    """

    member: Member
    weight: float
    logits: Tensor | None
    statistics: tuple[BatchNormStatistics, ...] = ()
    of_tokens: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchObservation:
    """A batch, and what was seen of it at one step.

    Attributes:
        zoo: all networks, whether or not they were drawn.
        images: (N, C, H, W) in [0, 1], before shifts and mixing.
        views: (N, C, H, W), what the networks saw: shifted, flipped and mixed.
        labels: (N,) classes of the images.
        partner_labels: (N,) classes of what is in the box of each view; ``labels`` where nothing is
            mixed.
        box_fraction: (N,) fraction of the view that the box covers; 0 where nothing is mixed.
        members: the networks drawn.
        student: a network under training, or None.
    """

    zoo: Zoo
    images: Tensor
    views: Tensor
    labels: Tensor
    partner_labels: Tensor
    box_fraction: Tensor
    members: tuple[MemberObservation, ...]
    student: Student | None = None

    @cached_property
    def student_logits(self) -> Tensor | None:
        """(N, K) of the student on the views, computed when first asked for; None without one."""
        return None if self.student is None else self.student(self.views)
