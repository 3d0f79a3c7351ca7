"""Recovery unit by unit: what each gives, from what enters it by now, is to be what it gave.

Weights are first fitted by least squares, layer by layer, and then learned by gradient descent for
the outputs of the whole unit (block-wise reconstruction as in BRECQ, Li et al. 2021, of zeros in
place of quantization).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
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
    sizes_of_parameters,
)
from mixmix.compress.unit_batches import draw_batches, images_in_step
from mixmix.errors import InputError
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

# What hardly varies any more is not to be blown up.
_SMALLEST_FRACTION = 1e-2
# For each weight of a row: in fewer positions, least squares would fit what is there by chance.
_LEAST_POSITIONS = 2
_TINY = 1e-12
_LEAST_PIXELS = 2**20


@dataclass(frozen=True)
class ReconstructFeatures(Recovery):
    """Let every unit give what it gave, one after another, each behind those that do already.

    Attributes:
        least_squares: iterations of conjugate gradients by which the weights that are left are
            fitted to each layer's outputs, in closed form but for rounding; 0 leaves it out. Only
            means and spreads are fitted where a row has more weights than half of the positions.
        ridge: of least squares, relative to the mean square of a layer's inputs.
        max_fitted_positions: most positions (pixels of a layer's output, over all images) that a
            layer is fitted to.
        iterations: steps of Adam for each unit's outputs; 0 leaves them out.
        learning_rate: of these, relative to the size of a parameter; it falls to zero.
        batch_size: most images in a step.
        max_positions: most positions (pixels of the larger of a unit's input and output, summed
            over images) in a step, as long as eight images are left.
        views: images that units are fitted to, where the data set has fewer: mixtures of its
            images, most of them warped, join them. None takes twice as many as the data set has,
            and at least 2^20 pixels (1,024 images of 32x32); 0 takes the images alone.
    """

    kind: ClassVar[str] = "reconstruct"
    adapts_units: ClassVar[bool] = True

    least_squares: int = 50
    ridge: float = 1e-3
    max_fitted_positions: int = 2**15
    iterations: int = 240
    learning_rate: float = 1e-2
    batch_size: int = 32
    max_positions: int = 4096
    views: int | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("least_squares", 0),
            ("iterations", 0),
            ("max_fitted_positions", 1),
            ("batch_size", 1),
            ("max_positions", 1),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"{name} must be a whole number >= {least}, got {value!r}")
        if self.views is not None and not (isinstance(self.views, int) and self.views >= 0):
            raise InputError(f"views must be a whole number >= 0 or None, got {self.views!r}")
        if not 0 <= self.ridge < math.inf:
            raise InputError(f"ridge must be a finite number >= 0, got {self.ridge!r}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be a finite number > 0, got {self.learning_rate}")

    def recover_(self, context: RecoveryContext, *, on_progress: Progress) -> None:
        """Change the student's weights, biases and BatchNorm in place."""
        total = len(context.pairs) * max(1, self.iterations)
        norms = context.student.following_norms()
        views = self.views
        if views is None:
            pixels = math.prod(context.data.images.shape[2:])
            views = max(_LEAST_PIXELS // pixels, 2 * len(context.data))
        with context.store() as store:
            for unit_step in iterate_units(context, store, views=views):
                what = f"reconstructing {unit_step.pair.student.name}"
                steps = count(unit_step.index * max(1, self.iterations))
                if self.least_squares:
                    for layer in unit_step.pair.student.layers:
                        self._fit(layer, unit_step, context, norms, batch_size=store.batch_size)
                if self.iterations:
                    self._descend(
                        unit_step,
                        context,
                        on_step=partial(_tell, on_progress, what, steps, total),
                    )
                on_progress(what, (unit_step.index + 1) / len(context.pairs))

    def _fit(
        self,
        name: str,
        unit_step: UnitStep,
        context: RecoveryContext,
        norms: dict[str, str],
        *,
        batch_size: int,
    ) -> None:
        """Least squares of one layer; a mean that is left over goes into bias or BatchNorm."""
        layer = context.student.layers[name]
        norm = context.student.graph_module.get_submodule(norms[name]) if name in norms else None
        targets = _teacher_outputs(name, unit_step, context)
        if targets is None:
            return
        moments = measure_moments(
            layer,
            _calls(name, unit_step, targets, batch_size),
            positions=max(1, self.max_fitted_positions // len(unit_step.inputs)),
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
            ridge=self.ridge,
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
                _take_over(norm, theirs, channels)
                _adapt(
                    norm, moments.target_mean.flatten(), mean, fraction.clamp(_SMALLEST_FRACTION, 1)
                )

    def _descend(
        self, unit_step: UnitStep, context: RecoveryContext, *, on_step: Callable[[], None]
    ) -> None:
        """Learn all parameters of the student's unit for its outputs."""
        unit = unit_step.pair.student.module
        parameters = [p for p in unit.parameters() if p.is_floating_point()]
        sizes = sizes_of_parameters(unit)
        inputs, targets = (
            t.contiguous(memory_format=memory_layout(t))
            for t in (unit_step.inputs, unit_step.targets)
        )
        batch_size = images_in_step(inputs, targets, self)
        generator = seeding.generator(context.seed, "recovery", unit_step.index)
        batches = draw_batches(len(targets), batch_size, generator=generator)
        groups = [{"params": [p], "size": sizes.get(p, 1.0)} for p in parameters]
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
                        group["lr"] = self.learning_rate * decay * group["size"]
                    outputs = unit(inputs[chosen].to(context.device))
                    error = outputs - targets[chosen].to(context.device)
                    error.square().mean().backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    on_step()
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)


def _take_over(norm: nn.Module, other: nn.Module, channels: Tensor | None) -> None:
    """Give a BatchNorm the statistics, factors and shifts of the teacher's."""
    for name, mine in (*norm.named_parameters(), *norm.named_buffers()):
        theirs = getattr(other, name)
        if mine.ndim and channels is not None:
            theirs = theirs.index_select(0, channels.to(theirs.device))
        mine.copy_(theirs)


def _adapt(norm: nn.Module, old_mean: Tensor, mean: Tensor, fraction: Tensor) -> None:
    """Fit a BatchNorm to another mean (C,) and this fraction (C,) of the variance, in place.

    What least squares cannot tell from its inputs is missing in the outputs, which so vary less;
    over many layers little would be left of the differences between images. The distance of the
    images from the statistics is kept, as in ``ReestimateBatchNorm``.
    """
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.sub_(old_mean).mul_(fraction.sqrt()).add_(mean)
    norm.running_var.mul_(fraction)


def _tell(on_progress: Progress, what: str, steps: Iterator[int], total: int) -> None:
    on_progress(what, next(steps) / total)


def _teacher_outputs(
    name: str, unit_step: UnitStep, context: RecoveryContext
) -> Callable[[Tensor], Tensor] | None:
    """From what the teacher's layer gives to what the student's is to give; None if unknown."""
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
    """What enters the student's layer, and what it is to give, batch by batch."""
    mine, theirs = unit_step.pair.student.module, unit_step.pair.teacher.module
    device = next(mine.parameters()).device
    with (
        captured_calls(mine.get_submodule(name)) as calls,
        captured_calls(theirs.get_submodule(name)) as others,
    ):
        for inputs, others_inputs in zip(
            unit_step.inputs.split(batch_size),
            unit_step.teacher_inputs.split(batch_size),
            strict=True,
        ):
            with torch.no_grad():
                mine(inputs.to(device))
                theirs(others_inputs.to(device))
            for (x, _), (_, outputs) in zip(calls, others, strict=True):
                yield x, targets(outputs)
            calls.clear()
            others.clear()
