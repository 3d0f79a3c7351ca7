"""Depth pruning: whole residual branches are removed, and what is left is a shallower network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, fx, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.method import Compressed, LayerRecord, Method, Progress
from mixmix.compress.prune.budgets import check_budgets, given_budgets, in_words
from mixmix.compress.prune.channels.latency import LatencyMeter
from mixmix.compress.prune.channels.plan import num_parameters
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.compress.recover.fine_tuning import FineTune
from mixmix.compress.recover.recover import Recovery, as_recoveries, recover
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.capture import capture
from mixmix.graph.costs import count_macs
from mixmix.graph.masks import refuse_quantized
from mixmix.graph.residual import (
    ResidualBlock,
    find_residual_blocks,
    without_blocks,
)
from mixmix.models.model import normalize
from mixmix.runtime import seeding

__all__ = ["PruneBlocks"]


@dataclass(frozen=True)
class PruneBlocks(Method):
    """Remove residual branches until the network costs a fraction of what it did.

    ``x + f(x)`` becomes ``x``. The branch goes next that moves the prediction least for the
    multiplications that it saves (parameters, if they are the budget), given those that are gone.
    Depth is time: a shallower network is faster by what it lacks, where one with fewer channels may
    not be. At least one budget is given, and none is exceeded. The results hold the names of the
    ``blocks`` that were removed, and what fraction is left of multiplications and parameters
    (``macs_ratio``, ``parameters_ratio``), and of the time if that was a budget
    (``latency_ratio``).

    Attributes:
        max_macs: multiplications relative to those of the whole network, in (0, 1).
        max_parameters: parameters likewise.
        max_latency: time of one image in ONNX Runtime on one thread likewise, measured here and
            now.
        num_images: images that predictions are compared on.
        recovery: one, or several to apply in order; ``()`` for none.
    """

    kind: ClassVar[str] = "prune-blocks"

    max_macs: float | None = None
    max_parameters: float | None = None
    max_latency: float | None = None
    num_images: int = 128
    recovery: Recovery | Sequence[Recovery] = field(default=(ReconstructFeatures(), FineTune()))

    def __post_init__(self) -> None:
        check_budgets(self)
        if self.num_images < 2:
            raise InputError(f"num_images must be at least 2, got {self.num_images}")
        object.__setattr__(self, "recovery", as_recoveries(self.recovery))

    @property
    def setting(self) -> str:
        """What is pruned, in a word."""
        return f"blocks, {in_words(given_budgets(self))}"

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Progress
    ) -> Compressed:
        """Prune a copy of the model.

        Returns:
            The shallower network, as a graph.

        Raises:
            CaptureError: if the model cannot be captured as a graph.
            InputError: if it has no residual branch, is pruned or quantized already, or the budget
                cannot be met.
        """
        refuse_quantized(model.module, model.spec.name)
        if model.masks:
            raise InputError(
                f"single weights of {model.spec.name} are pruned already; give PruneBlocks before "
                "Prune"
            )
        order = torch.randperm(len(data), generator=seeding.generator(seed, "blocks"))
        device = next(model.module.parameters()).device
        images = normalize(data.images[order[: self.num_images]].to(device), model.spec)
        dense = capture(model.module, images[:4]).requires_grad_(False)
        blocks = find_residual_blocks(dense)
        if not blocks:
            raise InputError(
                f"{model.spec.name} has no residual branch that begins at what it is added to; use "
                "PruneChannels"
            )
        removed, measured = self._chosen(model, dense, blocks, images, on_progress)
        pruned = copy.deepcopy(without_blocks(dense, removed))
        recovered = recover(
            pruned, dense, data, model.spec, self.recovery, seed=seed, on_progress=on_progress
        )
        names = {"blocks": [block.name for block in removed]}
        return model.with_method(
            self,
            names | measured,
            module=recovered,
            records=_records(model.module, blocks, removed),
            original=dense if model.original is None else model.original,
        )

    def _chosen(
        self,
        model: Compressed,
        dense: fx.GraphModule,
        blocks: Sequence[ResidualBlock],
        images: Tensor,
        on_progress: Progress,
    ) -> tuple[list[ResidualBlock], dict[str, float]]:
        """The blocks that go, and what fraction is left of each cost."""
        shape = model.spec.input_shape
        whole = (count_macs(dense, shape), num_parameters(dense))

        def fractions(network: nn.Module) -> dict[str, float]:
            return {
                "macs_ratio": count_macs(network, shape) / whole[0],
                "parameters_ratio": num_parameters(network) / whole[1],
            }

        order = _Order(
            dense, blocks, images, fractions, "parameters" if not self._by_macs else "macs"
        )
        with ExitStack() as stack:
            meter = None
            if self.max_latency is not None:
                meter = stack.enter_context(LatencyMeter(dense, model.spec, self.max_latency))
            measured: dict[str, float] = {}
            while order.left:
                on_progress("choosing blocks", len(order.removed) / len(blocks))
                network = order.remove_next()
                measured = dict(order.measured)
                if measured["macs_ratio"] > (self.max_macs or 1):
                    continue
                if measured["parameters_ratio"] > (self.max_parameters or 1):
                    continue
                if meter is not None:
                    measured["latency_ratio"] = meter.ratio(network)
                if measured.get("latency_ratio", 0.0) <= (self.max_latency or 1):
                    return order.removed, measured
        names = {"macs_ratio": "MACs", "parameters_ratio": "parameters", "latency_ratio": "latency"}
        left = ", ".join(f"{fraction:.3f} of {names[key]}" for key, fraction in measured.items())
        raise InputError(
            f"{model.spec.name} cannot be pruned to {self.setting}: without any of its "
            f"{len(blocks)} residual branches, {left} is left; raise the budget, or go on with "
            "PruneChannels"
        )

    @property
    def _by_macs(self) -> bool:
        return self.max_parameters is None or self.max_macs is not None


class _Order:
    """Which block is removed next: the smallest loss increase for what it saves.

    The loss increase is the divergence from the whole network's predictions, given the blocks that
    are removed already. That of the others is measured again only as long as the order may change
    by it, since it mostly grows with each removal.

    Attributes:
        removed: blocks that went, in order.
        left: all others.
        measured: what ``fractions`` says of the network without those that went.
    """

    def __init__(
        self,
        dense: fx.GraphModule,
        blocks: Sequence[ResidualBlock],
        images: Tensor,
        fractions: Callable[[nn.Module], dict[str, float]],
        counted: str,
    ) -> None:
        self._dense, self._images, self._fractions = dense, images, fractions
        self._counted = f"{counted}_ratio"
        self._logits = run_in_batches(dense, images)
        self.measured = fractions(dense)
        self.removed: list[ResidualBlock] = []
        self.left = list(blocks)
        self._known = {block.addition: self._increase(block) for block in blocks}

    def remove_next(self) -> fx.GraphModule:
        """The network without one more block."""
        fresh: set[str] = set() if self.removed else set(self._known)
        while True:
            best = min(self.left, key=lambda block: self._known[block.addition])
            if best.addition in fresh:
                break
            self._known[best.addition] = self._increase(best)
            fresh.add(best.addition)
        self.left.remove(best)
        self.removed.append(best)
        network = without_blocks(self._dense, self.removed)
        self.measured = self._fractions(network)
        return network

    def _increase(self, block: ResidualBlock) -> float:
        after = without_blocks(self._dense, [*self.removed, block])
        saved = self.measured[self._counted] - self._fractions(after)[self._counted]
        return mean_divergence(self._logits, run_in_batches(after, self._images)) / max(saved, 1e-9)


def _records(
    model: nn.Module, blocks: Sequence[ResidualBlock], removed: Sequence[ResidualBlock]
) -> tuple[LayerRecord, ...]:
    gone = {layer: block.name for block in removed for layer in block.layers}
    free = {layer for block in blocks for layer in block.layers}
    records = []
    for name, module in model.named_modules():
        count = sum(p.numel() for p in module.parameters(recurse=False))
        if not count:
            continue
        inside = next(
            (layer for layer in gone if name == layer or f"{name}.".startswith(f"{layer}.")), None
        )
        reason = (
            f"residual branch {gone[inside]} was removed"
            if inside
            else ("its residual branch was kept" if name in free else "part of no residual branch")
        )
        records.append(
            LayerRecord(
                name,
                type(module).__name__,
                "pruned" if inside else "skipped",
                reason,
                num_parameters=count,
            )
        )
    return tuple(records)
