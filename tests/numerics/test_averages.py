"""Running means of weights against the recursion of ``tf.train.ExponentialMovingAverage``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixmix.compress.train.state import TrainingState

DECAY = 0.5


class Student(nn.Module):
    """A weight, and BatchNorm whose statistics move, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x))
        return out


def state_of(student: nn.Module, decay: float | None = DECAY) -> TrainingState:
    groups = [{"params": list(student.parameters()), "rate": 1.0}]
    return TrainingState(student, torch.optim.SGD(groups, lr=1.0), decay)


def walk(state: TrainingState, steps: int) -> list[dict[str, Tensor]]:
    """Train, and return what the weights and statistics were after every step, the start first."""
    names = ("layer.weight", "norm.running_mean", "norm.running_var")

    def now() -> dict[str, Tensor]:
        return {name: state.student.state_dict()[name].clone() for name in names}

    path = [now()]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        state.student(torch.randn(6, 2, generator=generator)).square().sum().backward()
        for parameter in state.student.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        state.step(0.1)
        path.append(now())
    return path


def mean_of(path: list[dict[str, Tensor]], name: str, decay: float = DECAY) -> Tensor:
    """``mean <- d mean + (1 - d) value`` with ``d = min(decay, (1 + t) / (10 + t))``, t = 1, ..."""
    mean = path[0][name].double()
    for t, values in enumerate(path[1:], start=1):
        d = min(decay, (1 + t) / (10 + t))
        mean = d * mean + (1 - d) * values[name].double()
    return mean.float()


def test_mean_ramps_up_to_its_decay() -> None:
    for steps in (1, 3, 12):
        student = Student()
        state = state_of(student)
        path = walk(state, steps)
        state.finish()
        for name in path[0]:
            torch.testing.assert_close(student.state_dict()[name], mean_of(path, name))


def test_weights_of_the_mean_are_lent_and_taken_back() -> None:
    state = state_of(Student())
    path = walk(state, 4)
    with state.finished():
        for name in path[0]:
            torch.testing.assert_close(state.student.state_dict()[name], mean_of(path, name))
    for name, value in path[-1].items():
        assert torch.equal(state.student.state_dict()[name], value)


def test_without_a_decay_the_last_weights_stay() -> None:
    state = state_of(Student(), None)
    path = walk(state, 3)
    state.finish()
    for name, value in path[-1].items():
        assert torch.equal(state.student.state_dict()[name], value)


def test_state_goes_on_where_it_was() -> None:
    first = state_of(Student())
    walk(first, 3)
    second = state_of(Student())
    second.load(first.tensors(), first.steps_done)
    assert second.steps_done == 3
    for one, other in zip(walk(first, 2), walk(second, 2), strict=True):
        for name in one:
            assert torch.equal(one[name], other[name])
    for name, mean in first.mean.items():
        assert torch.equal(mean, second.mean[name])


def test_gradients_are_shortened_to_a_norm() -> None:
    student = Student()
    state = state_of(student)
    for parameter in student.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    count = sum(p.numel() for p in student.parameters())
    assert abs(state.clip_gradients(1.0) - 2 * count**0.5) < 1e-4
    length = sum(float(p.grad.square().sum()) for p in student.parameters())  # type: ignore[union-attr]
    assert abs(length - 1) < 1e-4
    assert abs(state.clip_gradients(None) - 1) < 1e-4
