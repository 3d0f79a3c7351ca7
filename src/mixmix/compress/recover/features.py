"""Recovery by reconstruction: every unit is fitted to the outputs of the teacher's unit.

The weights of each layer are fitted by least squares, then all parameters of a unit by gradient
descent (block-wise reconstruction as in BRECQ, Li et al. 2021, for pruning instead of
quantization).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from mixmix.compress.method import Progress
from mixmix.compress.recover.masked_least_squares import masked_least_squares
from mixmix.compress.recover.recover import (
    Recovery,
    RecoveryContext,
    UnitStep,
    iterate_units,
    parameter_scales,
)
from mixmix.compress.unit_batches import draw_batches, images_in_step
from mixmix.graph.batch_norm import is_batch_norm
from mixmix.graph.layer_moments import (
    captured_calls,
    from_grouped_rows,
    grouped_rows,
    measure_moments,
)
from mixmix.graph.masks import hold_masks
from mixmix.graph.pointwise import safe_gradients
from mixmix.runtime import seeding
from mixmix.runtime.memory_layout import memory_layout
from mixmix.runtime.rates import cosine_decay

__all__ = ["ReconstructFeatures"]

# Outputs that are almost constant are not amplified.
_SMALLEST_FRACTION = 1e-2
# Least squares overfits with fewer positions for each weight of a row.
_LEAST_POSITIONS = 2
# Most positions, over all images, that least squares fits a layer to.
_MOST_POSITIONS = 2**15
# Regularization of least squares, relative to the mean square of a layer's inputs.
_RIDGE = 1e-3
_TINY = 1e-12
_LEAST_PIXELS = 2**20


@dataclass(frozen=True)
class ReconstructFeatures(Recovery):
    """Fit every unit to its outputs before pruning, in order, on inputs from the units before it.

    A unit whose outputs would be further from these than before keeps its parameters.

    Attributes:
        least_squares: iterations of conjugate gradients that fit the remaining weights to each
            layer's outputs; 0 skips this step. If a row has more weights than half the number of
            positions, only means and variances are fitted.
        iterations: steps of Adam on each unit's outputs; 0 skips this step.
        learning_rate: learning rate of Adam, relative to the scale of a parameter; decays to zero.
        batch_size: largest number of images in a step.
        max_positions: largest number of positions in a step, summed over images: pixels of the
            unit's input or output, whichever has more. A step has at least eight images.
        views: number of images to fit units to: if there are fewer, mixtures of the images, most of
            them warped, are added. None is twice the number of images, and at least 2^20 pixels
            (1,024 images of 32x32); 0 adds none.

    Raises:
        InputError: if a setting is out of range.

    Example::

        >>> import mixmix
        >>> method = mixmix.Prune(0.5, recovery=mixmix.ReconstructFeatures(iterations=60))
    """

    kind: ClassVar[str] = "reconstruct"
    adapts_units: ClassVar[bool] = True

    least_squares: int = 50
    iterations: int = 240
    learning_rate: float = 1e-2
    batch_size: int = 32
    max_positions: int = 4096
    views: int | None = None

    def __post_init__(self) -> None:
        self._require_int("least_squares", "iterations", least=0)
        self._require_int("views", least=0, optional=True)
        self._require_int("batch_size", "max_positions", least=1)
        self._require_range("learning_rate", low=0, ends="(]")

    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Change the student's weights, biases and BatchNorm in place."""
        norms = context.student.following_norms()
        views = self.views
        if views is None:
            pixels = math.prod(context.data.images.shape[2:])
            views = max(_LEAST_PIXELS // pixels, 2 * len(context.data))
        with context.store() as store:
            for unit_step in iterate_units(context, store, views=views):
                progress = partial(_unit_progress, on_progress, unit_step, len(context.pairs))
                unit = unit_step.pair.student.module
                state = {name: t.clone() for name, t in unit.state_dict().items()}
                error = _error(unit_step, context.device, store.batch_size)
                for least_squares in (True, False):
                    if least_squares and self.least_squares:
                        for layer in unit_step.pair.student.layers:
                            self._fit(layer, unit_step, context, norms, batch_size=store.batch_size)
                    if self.iterations:
                        self._descend(unit_step, context, on_progress=progress)
                    if _error(unit_step, context.device, store.batch_size) <= error:
                        break
                    unit.load_state_dict(state)
                progress(1.0)

    def _fit(
        self,
        name: str,
        unit_step: UnitStep,
        context: RecoveryContext,
        norms: dict[str, str],
        *,
        batch_size: int,
    ) -> None:
        """Fit one layer by least squares; bias or BatchNorm correct means and variances."""
        layer = context.student.layers[name]
        norm = context.student.graph_module.get_submodule(norms[name]) if name in norms else None
        targets = _target_channels(name, unit_step, context)
        names = list(context.student.weight_names.values())
        # What fits one of several layers that share a weight does not fit the others.
        if targets is None or names.count(context.student.weight_names[name]) > 1:
            return
        moments = measure_moments(
            layer,
            _calls(name, unit_step, targets, batch_size),
            positions=max(1, _MOST_POSITIONS // len(unit_step.inputs)),
            generator=seeding.generator(context.seed, "least squares", name),
        )
        free = layer.bias is not None or norm is not None
        used = moments.centered() if free else moments
        mask = context.masks.get(context.student.weight_names[name])
        rows = grouped_rows(layer, layer.weight)
        support = torch.ones_like(rows) if mask is None else grouped_rows(layer, mask)
        num_weights = float(support.float().sum(-1).mean())
        is_determined = moments.num_positions >= _LEAST_POSITIONS * num_weights
        solved = masked_least_squares(
            rows,
            support.bool().to(rows.device),
            used.gram,
            used.cross,
            ridge=_RIDGE,
            iterations=self.least_squares if is_determined else 0,
        )
        with torch.no_grad():
            layer.weight.copy_(from_grouped_rows(layer, solved))
            if not free:
                return
            mean = (solved @ moments.input_mean[:, :, None]).flatten()
            if layer.bias is not None:
                layer.bias.copy_(moments.target_mean.flatten() - mean)
                mean = moments.target_mean.flatten()
            if norm is not None:
                fitted = ((solved @ moments.centered().gram) * solved).sum(-1).flatten()
                fraction = fitted / moments.target_variance.flatten().clamp_min(_TINY)
                theirs = unit_step.pair.teacher.module.get_submodule(norms[name])
                channels = context.kept_channels.get(norms[name], context.kept_channels.get(name))
                _copy_norm(norm, theirs, channels)
                fraction = fraction.clamp(_SMALLEST_FRACTION, 1)
                _adapt_norm(norm, moments.target_mean.flatten(), mean, fraction)

    def _descend(
        self,
        unit_step: UnitStep,
        context: RecoveryContext,
        *,
        on_progress: Callable[[float], None],
    ) -> None:
        """Train all parameters of the student's unit on the teacher's outputs."""
        unit = unit_step.pair.student.module
        parameters = [p for p in unit.parameters() if p.is_floating_point()]
        scales = parameter_scales(unit)
        inputs, targets = (
            t.contiguous(memory_format=memory_layout(t))
            for t in (unit_step.inputs, unit_step.targets)
        )
        batch_size = images_in_step(inputs, targets, self)
        generator = seeding.generator(context.seed, "recovery", unit_step.index)
        batches = draw_batches(len(targets), batch_size, generator=generator)
        groups = [{"params": [p], "scale": scales.get(p, 1.0)} for p in parameters]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        own = {id(p) for p in parameters}
        names = {n for n, p in context.student.module.named_parameters() if id(p) in own}
        masks = {name: mask for name, mask in context.masks.items() if name in names}
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            with hold_masks(context.student.module, masks), safe_gradients(unit):
                for step, chosen in zip(range(self.iterations), batches, strict=False):
                    for group in optimizer.param_groups:
                        decay = cosine_decay(step / self.iterations)
                        group["lr"] = self.learning_rate * decay * group["scale"]
                    outputs = unit(inputs[chosen].to(context.device))
                    error = outputs - targets[chosen].to(context.device)
                    error.square().mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    on_progress((step + 1) / self.iterations)
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)


@torch.no_grad()
def _error(unit_step: UnitStep, device: torch.device, batch_size: int) -> float:
    """Squared error of the outputs of the student's unit, summed over all images."""
    batches = zip(
        unit_step.inputs.split(batch_size), unit_step.targets.split(batch_size), strict=True
    )
    unit = unit_step.pair.student.module
    return sum(float((unit(x.to(device)) - y.to(device)).square().sum()) for x, y in batches)


def _unit_progress(
    on_progress: Progress, unit_step: UnitStep, num_units: int, fraction: float
) -> None:
    what = f"reconstructing {unit_step.pair.student.name}"
    on_progress(what, (unit_step.index + fraction) / num_units)


def _copy_norm(norm: nn.Module, other: nn.Module, channels: Tensor | None) -> None:
    """Copy parameters and statistics of the teacher's BatchNorm."""
    for name, mine in (*norm.named_parameters(), *norm.named_buffers()):
        theirs = getattr(other, name)
        if mine.ndim and channels is not None:
            theirs = theirs.index_select(0, channels.to(theirs.device))
        mine.copy_(theirs)


def _adapt_norm(norm: nn.Module, old_mean: Tensor, mean: Tensor, fraction: Tensor) -> None:
    """Fit a BatchNorm to another mean (C,) and this fraction (C,) of the variance, in place.

    Least squares reduces the variance of outputs by what the inputs do not explain, and over many
    layers the features of images would become equal. As in ``ReestimateBatchNorm``, the distance of
    the images from the statistics is kept.
    """
    assert is_batch_norm(norm)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.sub_(old_mean).mul_(fraction.sqrt()).add_(mean)
    norm.running_var.mul_(fraction)


def _target_channels(
    name: str, unit_step: UnitStep, context: RecoveryContext
) -> Callable[[Tensor], Tensor] | None:
    """Selects the targets of the student's layer from the teacher's outputs; None if unknown."""
    layer = context.student.layers[name]
    if name not in unit_step.pair.teacher.layers:
        return None
    theirs = unit_step.pair.teacher.module.get_submodule(name)
    channels = context.kept_channels.get(name)
    axis = 1 if isinstance(layer, nn.Conv2d) else -1
    if channels is not None:
        return lambda outputs: outputs.index_select(axis, channels.to(outputs.device))
    same = theirs.weight.shape[0] == layer.weight.shape[0]  # type: ignore[index]
    return (lambda outputs: outputs) if same else None


def _calls(
    name: str, unit_step: UnitStep, targets: Callable[[Tensor], Tensor], batch_size: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Inputs of the student's layer, and its targets, batch by batch."""
    mine, theirs = unit_step.pair.student.module, unit_step.pair.teacher.module
    device = next(mine.parameters()).device
    batches = zip(
        unit_step.inputs.split(batch_size),
        unit_step.teacher_inputs.split(batch_size),
        strict=True,
    )
    with (
        captured_calls(mine.get_submodule(name)) as calls,
        captured_calls(theirs.get_submodule(name)) as teacher_calls,
    ):
        for inputs, teacher_inputs in batches:
            with torch.no_grad():
                mine(inputs.to(device))
                theirs(teacher_inputs.to(device))
            for (x, _), (_, outputs) in zip(calls, teacher_calls, strict=True):
                yield x, targets(outputs)
            calls.clear()
            teacher_calls.clear()
