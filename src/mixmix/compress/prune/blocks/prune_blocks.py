"""Depth pruning: residual branches are removed, which leaves a shallower network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, fx, nn

from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.compress.method import Compressed, LayerRecord, Progress, skipped_layers
from mixmix.compress.prune.latency import latency_meter
from mixmix.compress.prune.structured import COST_NAMES, StructuredPruning, cost_ratios
from mixmix.compress.recover.recover import recover
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.capture import capture
from mixmix.graph.residual import ResidualBlock, find_residual_blocks, without_blocks

__all__ = ["PruneBlocks"]


@dataclass(frozen=True)
class PruneBlocks(StructuredPruning):
    """Remove residual branches until the network meets its budgets, and recover.

    ``x + f(x)`` becomes ``x``. Each step removes the branch with the smallest loss increase per
    saved MAC (or parameter, if the budget is in parameters), given the branches removed before. The
    results contain the names of the removed ``blocks``, the ``macs_ratio`` and ``parameters_ratio``
    to the whole network, and the ``latency_ratio`` if there is a latency budget.

    Give at least one of ``max_macs``, ``max_parameters`` and ``max_latency``; all settings are
    described in ``StructuredPruning``.

    Raises:
        InputError: if a setting is out of range.

    Example::

        >>> import mixmix, torch
        >>> images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> method = mixmix.PruneBlocks(max_macs=0.95, recovery=())
        >>> pruned = mixmix.compress("bundled:mobilenetv2", images, method)
        >>> pruned.applied[0].results["blocks"]
        [...]
    """

    kind: ClassVar[str] = "prune-blocks"

    num_images: int = 128

    @property
    def setting(self) -> str:
        """The budgets, such as ``blocks, 50% of MACs``."""
        return f"blocks, {super().setting}"

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
        self._check_prunable(model)
        images = self._images(model, data, seed, "blocks")
        dense = capture(model.module, images[:4]).requires_grad_(False)
        blocks = find_residual_blocks(dense)
        if not blocks:
            raise InputError(
                f"{model.spec.name} has no residual branch with an identity shortcut; use "
                "PruneChannels"
            )
        removed, measured = self._chosen(model, dense, blocks, images, on_progress)
        recovered = recover(
            copy.deepcopy(without_blocks(dense, removed)),
            dense,
            data,
            model.spec,
            self.recovery,
            seed=seed,
            on_progress=on_progress,
        )
        return model.with_method(
            self,
            {"blocks": [block.name for block in removed]} | measured,
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
        """The blocks to remove, and the cost ratios without them."""
        by_macs = self.max_parameters is None or self.max_macs is not None
        order = _Order(
            dense,
            blocks,
            images,
            cost_ratios(dense, model.spec.input_shape),
            "macs_ratio" if by_macs else "parameters_ratio",
        )
        budgets = {f"{cost}_ratio": self.budgets.get(cost, 1) for cost in COST_NAMES}
        ratios: dict[str, float] = {}
        with (
            nullcontext()
            if self.max_latency is None
            else latency_meter(dense, model.spec, self.max_latency)
        ) as meter:
            while order.left:
                on_progress("choosing blocks", len(order.removed) / len(blocks))
                network = order.remove_next()
                ratios = dict(order.ratios)
                fits = all(ratio <= budgets[name] for name, ratio in ratios.items())
                if fits and meter is not None:
                    ratios["latency_ratio"] = meter.ratio(network)
                    fits = ratios["latency_ratio"] <= budgets["latency_ratio"]
                if fits:
                    return order.removed, ratios
        left = ", ".join(
            f"{ratio:.3f} of {COST_NAMES[name.removesuffix('_ratio')]}"
            for name, ratio in ratios.items()
        )
        raise InputError(
            f"{model.spec.name} cannot be pruned to {self.setting}: without any of its "
            f"{len(blocks)} residual branches, {left} is left; raise the budget or add "
            "PruneChannels"
        )


class _Order:
    """Order in which blocks are removed: the smallest loss increase per saved cost first.

    The loss increase is the divergence from the dense network's predictions, given the blocks
    removed before. It mostly grows with each removal, so it is measured again only while that may
    change the order.

    Attributes:
        removed: blocks removed so far, in order.
        left: all other blocks.
        ratios: cost ratios of the network without ``removed``.
    """

    def __init__(
        self,
        dense: fx.GraphModule,
        blocks: Sequence[ResidualBlock],
        images: Tensor,
        ratios_of: Callable[[nn.Module], dict[str, float]],
        counted: str,
    ) -> None:
        self._dense, self._images, self._ratios_of = dense, images, ratios_of
        self._counted = counted
        self._logits = run_in_batches(dense, images)
        self.ratios = ratios_of(dense)
        self.removed: list[ResidualBlock] = []
        self.left = list(blocks)
        self._known = {block.addition: self._increase(block) for block in blocks}

    def remove_next(self) -> fx.GraphModule:
        """Remove one more block, and return the network without it."""
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
        self.ratios = self._ratios_of(network)
        return network

    def _increase(self, block: ResidualBlock) -> float:
        after = without_blocks(self._dense, [*self.removed, block])
        saved = self.ratios[self._counted] - self._ratios_of(after)[self._counted]
        return mean_divergence(self._logits, run_in_batches(after, self._images)) / max(saved, 1e-9)


def _records(
    model: nn.Module, blocks: Sequence[ResidualBlock], removed: Sequence[ResidualBlock]
) -> tuple[LayerRecord, ...]:
    branch_of = {layer: block.name for block in removed for layer in block.layers}
    prunable = {layer for block in blocks for layer in block.layers}
    records = []
    for _, record in skipped_layers(model):
        inside = (layer for layer in branch_of if f"{record.name}.".startswith(f"{layer}."))
        branch = next((branch_of[layer] for layer in inside), None)
        if branch is not None:
            record = replace(
                record, action="pruned", reason=f"residual branch {branch} was removed"
            )
        else:
            kept = record.name in prunable
            reason = "its residual branch was kept" if kept else "part of no residual branch"
            record = replace(record, reason=reason)
        records.append(record)
    return tuple(records)
