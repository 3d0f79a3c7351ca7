"""Inputs of the terms of the loss: a batch and the outputs of the networks for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from mixmix.models.member import Member
from mixmix.models.observation import BatchNormStatistics
from mixmix.models.zoo import Zoo

__all__ = ["BatchObservation", "MemberObservation"]


@dataclass(frozen=True)
class MemberObservation:
    """Outputs of one network of the zoo, differentiable with respect to the images.

    Attributes:
        member: the network (``member.model``) and its role in the zoo.
        weight: factor of its losses in this step.
        logits: (N, K) in the classes of the zoo; None if the network does not have them.
        statistics: of every BatchNorm layer, in order of execution.
    """

    member: Member
    weight: float
    logits: Tensor | None
    statistics: tuple[BatchNormStatistics, ...] = ()


@dataclass(frozen=True)
class BatchObservation:
    """A batch and the outputs of networks for it, at one step.

    Attributes:
        zoo: all networks, drawn or not.
        images: (N, C, H, W) in [0, 1], before shifts and mixing.
        views: (N, C, H, W), inputs of the networks: shifted, flipped and mixed.
        labels: (N,) classes of the images.
        partner_labels: (N,) classes of the images in the boxes; ``labels`` without mixing.
        box_fraction: (N,) fraction of the view that the box covers; 0 without mixing.
        members: the networks drawn, with their outputs.
    """

    zoo: Zoo
    images: Tensor
    views: Tensor
    labels: Tensor
    partner_labels: Tensor
    box_fraction: Tensor
    members: tuple[MemberObservation, ...]
