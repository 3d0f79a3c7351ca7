"""Structured pruning: whole channels are removed, and what is left is a smaller dense network."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixmix import seeding
from mixmix.capture import relative_error
from mixmix.compression.batch_norm_statistics import reestimate_batch_norms_
from mixmix.compression.channel_groups import ChannelGroup, find_groups
from mixmix.compression.channel_importance import (
    bn_scale_importance,
    magnitude_importance,
    taylor_importance,
)
from mixmix.compression.channel_pads import pads_as_layers
from mixmix.compression.channel_plan import ALLOCATIONS, ChannelPlan, PlanSettings, num_parameters
from mixmix.compression.channel_records import record_channels
from mixmix.compression.method import Compressed, Progress
from mixmix.compression.quantized import QuantizedLayer
from mixmix.cost import count_macs
from mixmix.errors import InputError
from mixmix.synthesis.dataset import SyntheticDataset
from mixmix.zoo.teacher import normalise

__all__ = ["PruneChannels"]

_IMPORTANCES = ("magnitude", "taylor", "bn-scale")

# Kernels for the CPU work on blocks of 8 or 16 channels (AVX2, AVX-512): what falls short of a
# block costs as much as the whole.
_BLOCK, _FAST_BLOCK = 8, 16
_INFERENCE_BATCH = 128


@dataclass(frozen=True)
class PruneChannels:
    """Remove channels until the network costs a share of what it did.

    Channels that several layers share (residual sums, concatenations, depthwise convolutions,
    gates) go together. What is left computes what the network would with those channels silent;
    then the statistics of BatchNorm are measured anew on the images, where that brings the outputs
    nearer to those of the whole network. Exactly one budget is given; it is never exceeded.

    Attributes:
        max_macs: multiplications relative to those of the whole network, in (0, 1).
        max_parameters: parameters likewise.
        max_latency: time of one image in ONNX Runtime on one thread likewise, measured here and
            now; the number of multiplications is searched for that meets it.
        importance: which channels of a group go first. ``taylor``: those whose loss moves the
            prediction least, to second order; ``magnitude``: those with the smallest weights;
            ``bn-scale``: those with the smallest factors of BatchNorm.
        allocation: how many channels each group loses. ``global``: all channels are ranked together
            (``taylor`` by what a multiplication or parameter saved costs, the others relative to
            the mean of their layer); ``uniform``: the same share everywhere; ``sensitivity``: by
            how far the prediction moves when a group is pruned alone.
        round_to: channels kept are a multiple of it, unless all are; None takes 16 with
            ``max_latency`` and 8 without, as CPUs compute as many at a time.
        min_share: of its channels that each group keeps at least, in (0, 1].
        num_images: images that importance is measured on.
    """

    max_macs: float | None = None
    max_parameters: float | None = None
    max_latency: float | None = None
    importance: str = "taylor"
    allocation: str = "global"
    round_to: int | None = None
    min_share: float = 0.1
    num_images: int = 256

    def __post_init__(self) -> None:
        budgets = ("max_macs", "max_parameters", "max_latency")
        given = [name for name in budgets if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"give exactly one of {', '.join(budgets)}; got {', '.join(given) or 'none'}"
            )
        if not 0 < self._budget < 1:
            raise InputError(f"{given[0]} must be between 0 and 1, got {self._budget}")
        for name, known in (("importance", _IMPORTANCES), ("allocation", ALLOCATIONS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        if self.round_to is not None and self.round_to < 1:
            raise InputError(f"round_to must be at least 1 or None, got {self.round_to}")
        if not 0 < self.min_share <= 1:
            raise InputError(f"min_share must be above 0 and at most 1, got {self.min_share}")
        if self.num_images < 2:
            raise InputError(f"num_images must be at least 2, got {self.num_images}")

    @property
    def _budget(self) -> float:
        value = next(
            value
            for value in (self.max_macs, self.max_parameters, self.max_latency)
            if value is not None
        )
        return float(value)

    @property
    def _step(self) -> int:
        if self.round_to is not None:
            return self.round_to
        return _BLOCK if self.max_latency is None else _FAST_BLOCK

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"method": "prune-channels"} | asdict(self)

    def apply(
        self, model: Compressed, data: SyntheticDataset, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Prune a copy of the model.

        Returns:
            The smaller network. Where the original pads channels with zeros it is a graph in which
            a convolution does so. The settings say what share is left of multiplications and
            parameters, and of the time if that was the budget.

        Raises:
            InputError: if the network cannot be traced, nothing of it can be pruned, it is
                quantized, or the budget cannot be met; the message says what can.
        """
        _check_prunable(model, self)
        device = next(model.model.parameters()).device
        order = torch.randperm(len(data), generator=seeding.generator(seed, "channels"))
        images = normalise(data.images[order[: self.num_images]], model.spec).to(device)
        dense = pads_as_layers(model.model, images[:4])
        groups, reasons = find_groups(
            dense, images[:4], on_progress=partial(on_progress, "finding channels")
        )
        scores = self._scores(dense, groups, images, seed=seed, on_progress=on_progress)
        for group, score in zip(groups, scores, strict=True):
            if score is None:
                reasons[group.root] = "no BatchNorm has its channels"
        known = {g.root: s for g, s in zip(groups, scores, strict=True) if s is not None}
        groups = [group for group in groups if group.root in known]
        if not groups:
            raise InputError(
                f"{model.spec.name} has no channels that can be pruned: {_listed(reasons)}"
            )
        plan = ChannelPlan(
            dense,
            model.model,
            model.spec,
            groups,
            list(known.values()),
            images,
            PlanSettings(
                counts_parameters=self.max_parameters is not None,
                allocation=self.allocation,
                # Scores relative to the mean of a layer say nothing of what a network would miss.
                adds_up=self.importance == "taylor" or self.allocation == "sensitivity",
                round_to=self._step,
                min_share=self.min_share,
            ),
            on_progress=on_progress,
        )
        measured: dict[str, float] = {}
        shape = model.spec.input_shape
        if self.max_latency is None:
            pruned = plan.within(self._budget)
        else:
            pruned, latency_ratio = plan.faster(self.max_latency, on_progress)
            measured["latency_ratio"] = latency_ratio
        measured |= {
            "macs_ratio": count_macs(pruned, shape) / count_macs(model.model, shape),
            "parameters_ratio": num_parameters(pruned) / num_parameters(model.model),
        }
        pruned = _with_new_statistics(pruned, dense, images)
        return replace(
            model,
            model=_laid_out_like(pruned, model.model),
            records=record_channels(model.model, pruned, groups, reasons),
            settings=(*model.settings, self.to_dict() | measured),
        )

    def _scores(
        self,
        dense: nn.Module,
        groups: Sequence[ChannelGroup],
        images: Tensor,
        *,
        seed: int,
        on_progress: Progress,
    ) -> Sequence[Tensor | None]:
        if self.importance == "magnitude":
            return magnitude_importance(dense, groups)
        if self.importance == "bn-scale":
            return bn_scale_importance(dense, groups)
        if not groups:
            return []
        return taylor_importance(
            dense,
            groups,
            images,
            generator=seeding.generator(seed, "channel importance"),
            on_progress=partial(on_progress, "measuring channels"),
        )


def _check_prunable(model: Compressed, settings: PruneChannels) -> None:
    if any(isinstance(module, QuantizedLayer) for module in model.model.modules()):
        raise InputError(
            f"{model.spec.name} is quantized; prune its channels before, as in "
            "compress(model, data, [PruneChannels(...), Quantize(...)], seed=0)"
        )
    needs_logits = settings.importance == "taylor" or settings.allocation == "sensitivity"
    if needs_logits and model.spec.num_classes < 1:
        raise InputError(
            f"{model.spec.name} has no label head, and importance='taylor' and "
            "allocation='sensitivity' go by predictions; use magnitude or bn-scale, and global or "
            "uniform"
        )


def _with_new_statistics(pruned: nn.Module, dense: nn.Module, images: Tensor) -> nn.Module:
    """With statistics of BatchNorm measured anew, if the outputs are nearer to the dense ones."""
    updated = copy.deepcopy(pruned)
    reestimate_batch_norms_(updated, images)
    wanted = _run(dense, images)
    errors = [relative_error(_run(network, images), wanted) for network in (pruned, updated)]
    return updated if errors[1] < errors[0] else pruned


@torch.no_grad()
def _run(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(_INFERENCE_BATCH)])


def _laid_out_like(pruned: nn.Module, original: nn.Module) -> nn.Module:
    """In the order of memory of the original's weights, which indexing does not keep."""
    innermost = any(
        parameter.ndim == 4
        and parameter.is_contiguous(memory_format=torch.channels_last)
        and not parameter.is_contiguous()
        for parameter in original.parameters()
    )
    return pruned.to(memory_format=torch.channels_last) if innermost else pruned


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "it has no layers"
