"""Learning rates, step by step, against PyTorch's own schedulers and what its optimizers are told.

``Spy`` stands in for an optimizer of ``torch.optim`` and notes the learning rate of each parameter
at every step, so that it does not matter where in the code a rate is computed.
"""

from __future__ import annotations

import math
from dataclasses import astuple
from typing import Any

import pytest
import torch
from tiny_networks import tiny_images, tiny_network, tiny_spec
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from mixmix import FineTune, ReconstructFeatures, TrainingSettings, recover
from mixmix.compress.quantize.reconstruction import ReconstructionSettings, rates_at
from mixmix.compress.train.train import learning_rate_at, train_
from mixmix.runtime.rates import cosine_decay


def rates_of(scheduler: LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def sgd(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict[int, dict[str, Any]]]:
    """From each step on, what ``torch.optim``'s optimizer is told, by the id of a parameter."""
    steps: list[dict[int, dict[str, Any]]] = []
    original = getattr(torch.optim, name)

    class Spy(original):  # type: ignore[misc]
        def step(self, closure: Any = None) -> Any:
            known = {
                id(parameter): {k: v for k, v in group.items() if k != "params"}
                for group in self.param_groups
                for parameter in group["params"]
            }
            steps.append(known)
            return super().step(closure)

    monkeypatch.setattr(torch.optim, name, Spy)
    return steps


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_cosine_decay_is_that_of_sgdr(steps: int) -> None:
    # Loshchilov & Hutter 2017, SGDR, eq. 5, in torch.optim.
    wanted = rates_of(CosineAnnealingLR(sgd(1.0), T_max=steps), steps)
    found = [cosine_decay(step / steps) for step in range(steps)]
    assert found == pytest.approx(wanted, abs=1e-7)
    assert cosine_decay(1.0) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("steps", "rising"), [(20, 0), (20, 4), (50, 5), (10, 9)])
def test_learning_rate_is_a_line_and_then_a_cosine(steps: int, rising: int) -> None:
    settings = TrainingSettings(steps=steps, learning_rate=0.3, warmup=rising / steps)
    optimizer = sgd(0.3)
    fall = CosineAnnealingLR(optimizer, T_max=steps - rising)
    scheduler: LRScheduler = fall
    if rising:
        rise = LinearLR(optimizer, start_factor=1 / (rising + 1), total_iters=rising)
        scheduler = SequentialLR(optimizer, [rise, fall], [rising])
    found = [learning_rate_at(step, settings) for step in range(steps)]
    # Where they meet, SequentialLR starts anew with the rate of the second.
    assert found == pytest.approx(rates_of(scheduler, steps), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_training_tells_its_optimizer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = spied(monkeypatch, {"adamw": "AdamW", "sgd": "SGD"}[name])
    student, teacher = tiny_network("plain"), tiny_network("plain")
    settings = TrainingSettings(
        steps=6, batch_size=4, optimizer=name, learning_rate=0.01, warmup=0.5, weight_decay=0.125
    )
    head = next(n for n, p in student.named_parameters() if p.ndim == 2)
    train_(
        student,
        teacher,
        tiny_images(8),
        tiny_spec("plain"),
        settings,
        seed=0,
        rate_of=lambda name: 0.25 if name == head else 1.0,
    )
    parameters = dict(student.named_parameters())
    assert len(told) == 6
    for step, groups in enumerate(told):
        for key, parameter in parameters.items():
            group = groups[id(parameter)]
            share = 0.25 if key == head else 1.0
            assert group["lr"] == pytest.approx(share * learning_rate_at(step, settings))
            assert group["weight_decay"] == 0.125
            if name == "sgd":
                assert group["momentum"] == 0.9 and group["nesterov"]


def root_mean_square(weight: Tensor) -> float:
    values = [float(v) for v in weight.detach().flatten() if float(v) != 0]
    return math.sqrt(sum(v * v for v in values) / len(values))


def halved() -> tuple[nn.Module, dict[str, Tensor]]:
    model = tiny_network("plain")
    masks = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            masks[name] = parameter.detach().abs() >= parameter.detach().abs().median()
            parameter.data.mul_(masks[name])
            parameter.data.mul_(3.0 if "0" in name else 0.5)  # layers of unlike sizes
    return model, masks


def test_units_are_descended_at_rates_relative_to_their_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, masks = halved()
    told = spied(monkeypatch, "Adam")
    recovery = ReconstructFeatures(
        least_squares=0, iterations=4, learning_rate=0.02, batch_size=8, views=0
    )
    recover(
        student, tiny_network("plain"), tiny_images(), tiny_spec("plain"), recovery,
        masks=masks, seed=0,
    )  # fmt: skip
    wanted = {round(root_mean_square(student.get_parameter(name)), 6) for name in masks}
    starts = told[::4]
    sizes = {round(g["lr"] / 0.02, 6) for groups in starts for g in groups.values()}
    assert wanted <= sizes
    for first in range(0, len(told), 4):
        for step in range(4):
            for key, group in told[first + step].items():
                share = group["lr"] / told[first][key]["lr"]
                assert share == pytest.approx(0.5 * (1 + math.cos(math.pi * step / 4)))


def test_fine_tuning_is_at_rates_relative_to_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    student, masks = halved()
    told = spied(monkeypatch, "AdamW")
    training = TrainingSettings(steps=1, batch_size=8, learning_rate=0.02, warmup=0.0)
    recover(
        student, tiny_network("plain"), tiny_images(), tiny_spec("plain"),
        FineTune(training, held_out=0), masks=masks, seed=0,
    )  # fmt: skip
    wanted = {round(root_mean_square(student.get_parameter(name)), 6) for name in masks}
    assert wanted <= {round(group["lr"] / 0.02, 6) for group in told[0].values()}


def test_rates_of_rounding_along_the_way() -> None:
    # In order: of the rounding, of the scales of weights, of the step sizes, and the pull.
    settings = ReconstructionSettings(8, 32, 2048, 0.5, 0.25, 2e-3, 8.0)
    for progress in (0.0, 0.25, 0.5, 1.0):
        wanted = (0.5, 0.25 * (1 + math.cos(math.pi * progress)) / 2, 8.0 * progress)
        assert astuple(rates_at(progress, settings)) == pytest.approx(wanted)
