"""State of training: weights, their running mean, and the state of the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mixmix.runtime.storage import tensors_below

__all__ = ["TrainingState"]


class TrainingState:
    """Weights of a student, their moving average, the optimizer's state, and the steps done.

    Args:
        student: the network that is trained.
        optimizer: its groups have a ``rate`` relative to the learning rate of a step.
        ema_decay: see ``TrainingSettings``.
    """

    def __init__(
        self, student: nn.Module, optimizer: torch.optim.Optimizer, ema_decay: float | None
    ) -> None:
        self.student, self.optimizer, self.ema_decay = student, optimizer, ema_decay
        self.steps_done = 0
        self.parameters = {
            name: parameter
            for name, parameter in student.named_parameters()
            if parameter.requires_grad
        }
        # Statistics of BatchNorm are averaged like the weights they were measured with.
        statistics = {n: b for n, b in student.named_buffers() if b.is_floating_point()}
        self._averaged = {} if ema_decay is None else {**self.parameters, **statistics}
        self.mean = {name: tensor.detach().clone() for name, tensor in self._averaged.items()}

    def clip_gradients(self, largest: float | None) -> float:
        """Clip the norm of the gradients; returns the norm before."""
        limit = float("inf") if largest is None else largest
        return float(nn.utils.clip_grad_norm_(self.parameters.values(), limit))

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Take an optimizer step, and clear the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps_done += 1
        if self.ema_decay is not None:
            # Early on, average over about the last tenth of the steps.
            decay = min(self.ema_decay, (self.steps_done + 1) / (self.steps_done + 10))
            for name, mean in self.mean.items():
                mean.lerp_(self._averaged[name].detach(), 1 - decay)

    @torch.no_grad()
    def finish(self) -> None:
        """Give the student its final weights."""
        for name, mean in self.mean.items():
            self._averaged[name].copy_(mean)

    @contextmanager
    @torch.no_grad()
    def finished(self) -> Iterator[None]:
        """Context in which the student has the weights it would end with now."""
        kept = {name: self._averaged[name].detach().clone() for name in self.mean}
        self.finish()
        try:
            yield
        finally:
            for name, tensor in kept.items():
                self._averaged[name].copy_(tensor)

    def tensors(self) -> dict[str, Tensor]:
        """The state by name, without the number of steps."""
        found = {f"student.{name}": t for name, t in self.student.state_dict().items()}
        found |= {f"mean.{name}": t for name, t in self.mean.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                if value is not None:
                    found[f"optimizer.{name}.{key}"] = value
        # Copies, since safetensors does not store tensors that share memory.
        return {name: tensor.detach().clone() for name, tensor in found.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], steps_done: int) -> None:
        """Restore the state that ``tensors()`` returned."""
        self.steps_done = steps_done
        self.student.load_state_dict(tensors_below("student.", tensors))
        for name, value in tensors_below("mean.", tensors).items():
            self.mean[name].copy_(value)
        for name, parameter in self.parameters.items():
            for key, value in tensors_below(f"optimizer.{name}.", tensors).items():
                like = parameter if value.shape == parameter.shape else value
                kept = torch.empty_like(like, dtype=value.dtype)
                self.optimizer.state[parameter][key] = kept.copy_(value)
