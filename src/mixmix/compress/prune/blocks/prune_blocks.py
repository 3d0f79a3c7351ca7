"""Depth pruning: residual branches are removed, which leaves a shallower network."""

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
from mixmix.compress.prune.budgets import budget_text, check_budgets, cost_ratios
from mixmix.compress.prune.latency import LatencyMeter
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.compress.recover.fine_tuning import FineTune
from mixmix.compress.recover.recover import Recovery, as_recoveries, recover
from mixmix.data.image_set import ImageSet
from mixmix.errors import InputError
from mixmix.graph.capture import capture
from mixmix.graph.masks import refuse_quantized
from mixmix.graph.residual import ResidualBlock, find_residual_blocks, without_blocks
from mixmix.models.model import normalize
from mixmix.runtime import seeding

__all__ = ["PruneBlocks"]


@dataclass(frozen=True)
class PruneBlocks(Method):
    """Remove residual branches until the network meets its budgets, and recover.

    ``x + f(x)`` becomes ``x``. The branch with the smallest loss increase per saved multiplication
    (or parameter, if they are the budget) is removed first, given those removed before. At least
    one budget is needed. The results hold the names of the removed ``blocks``, the ``macs_ratio``
    and ``parameters_ratio`` to the whole network, and the ``latency_ratio`` if there is a latency
    budget.

    Attributes:
        max_macs: budget of multiplications, as a fraction in (0, 1) of the whole network's.
        max_parameters: budget of parameters, likewise.
        max_latency: budget of latency, likewise: one image in ONNX Runtime on one thread of this
            machine.
        num_images: images that predictions are compared on.
        recovery: one recovery, several to apply in order, or ``()`` for none.

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
        """The budgets, such as ``blocks, 50% of MACs``."""
        return f"blocks, {budget_text(self)}"

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
        with ExitStack() as stack:
            meter = None
            if self.max_latency is not None:
                meter = stack.enter_context(LatencyMeter(dense, model.spec, self.max_latency))
            measured: dict[str, float] = {}
            while order.left:
                on_progress("choosing blocks", len(order.removed) / len(blocks))
                network = order.remove_next()
                measured = dict(order.ratios)
                if measured["macs_ratio"] > (self.max_macs or 1):
                    continue
                if measured["parameters_ratio"] > (self.max_parameters or 1):
                    continue
                if meter is not None:
                    measured["latency_ratio"] = meter.ratio(network)
                if measured.get("latency_ratio", 0.0) <= (self.max_latency or 1):
                    return order.removed, measured
        names = {"macs_ratio": "MACs", "parameters_ratio": "parameters", "latency_ratio": "latency"}
        left = ", ".join(f"{ratio:.3f} of {names[key]}" for key, ratio in measured.items())
        raise InputError(
            f"{model.spec.name} cannot be pruned to {self.setting}: without any of its "
            f"{len(blocks)} residual branches, {left} is left; raise the budget, or add "
            "PruneChannels"
        )


class _Order:
    """Order in which blocks are removed: the smallest loss increase per saved cost first.

    The loss increase is the divergence from the dense network's predictions, given the blocks
    removed before. It mostly grows with each removal, so it is measured again only while that may
    change the order.

    Args:
        dense: dense network.
        blocks: its residual blocks.
        images: (N, C, H, W) normalized.
        ratios_of: returns the cost ratios of a network to the dense one.
        counted: the ratio that savings are measured by.

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
    for name, module in model.named_modules():
        count = sum(p.numel() for p in module.parameters(recurse=False))
        if not count:
            continue
        inside = next((layer for layer in branch_of if f"{name}.".startswith(f"{layer}.")), None)
        action, reason = "skipped", "part of no residual branch"
        if inside is not None:
            action, reason = "pruned", f"residual branch {branch_of[inside]} was removed"
        elif name in prunable:
            reason = "its residual branch was kept"
        records.append(
            LayerRecord(name, type(module).__name__, action, reason, num_parameters=count)
        )
    return tuple(records)
