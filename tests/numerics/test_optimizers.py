"""What is learned by steps of our own or beside PyTorch's optimizers, against formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_networks import tiny_images, tiny_network, tiny_spec
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix import ImageSet, ModelSpec, Quantize, QuantizeAware, TrainingSettings, compress
from mixmix.compress.quantize import reconstruction
from mixmix.compress.quantize.learnable import LearnableActivation
from mixmix.compress.quantize.lsq import StepSizeActivation
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.compress.quantize.rounding import Moments
from mixmix.compress.train.train import train_


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 6])
def test_gradient_of_a_step_size_is_divided_by_the_values_of_one_image(
    bits: int, count: int
) -> None:
    # Esser et al. 2020, section 2.2: g = 1 / sqrt(N_F Q_P) with the features of one image.
    learned = LearnableActivation(bits, quantize_prob=1.0)
    learned.set_range(torch.linspace(0, 1, 100))
    trained = StepSizeActivation(learned)
    x = torch.rand(count, 3, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    trained(x).sum().backward()
    scale = float(learned.scale)
    positions = x.detach() / scale
    inside = positions < 2**bits - 0.5
    per_value = torch.where(inside, positions.round() - positions, torch.tensor(2.0**bits - 1))
    wanted = float(per_value.sum()) * scale / math.sqrt(3 * 4 * 5 * (2**bits - 1))
    assert trained.log_scale.grad is not None
    assert float(trained.log_scale.grad) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("shape", [(1,), (3, 2)])
def test_moments_forget_as_adam_does(shape: tuple[int, ...]) -> None:
    # Kingma & Ba 2015, algorithm 1, written out; a gradient that vanishes shows both decays.
    moments = Moments(torch.zeros(shape))
    first = second = 0.0
    for step in range(1, 9):
        gradient = 3.0 if step < 4 else 0.0
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        wanted = first / (1 - 0.9**step) / math.sqrt(second / (1 - 0.99**step))
        found = moments.update(torch.full(shape, gradient))
        torch.testing.assert_close(found, torch.full(shape, wanted), rtol=1e-4, atol=1e-6)


def test_step_sizes_of_activations_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    # Where Adam's direction is always 1, what a step leaves of a scale is 1 - rate.
    monkeypatch.setattr(reconstruction.Moments, "update", lambda self, g: torch.ones_like(g))
    settings = ReconstructionSettings(iterations=8, scale_rate=0.1, batch_size=8)
    start = replace(settings, scale_rate=0.0)
    scales = []
    for each in (start, settings):
        quantize = Quantize("W4A4", first_last_bits=None, reconstruction=each)
        found = compress(
            (tiny_network("no-batch-norm"), tiny_spec("no-batch-norm")),
            tiny_images(), quantize, seed=0,
        )  # fmt: skip
        scales.append({n: float(b) for n, b in found.module.named_buffers() if b.ndim == 0})
    first = next(n for n in scales[0] if n.endswith("scale"))
    wanted = math.prod(1 - 0.1 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8))
    names = [n for n in scales[0] if n.endswith("scale") and scales[0][n] != scales[1][n]]
    # What enters later units changes with the units before, and with it where scales start.
    assert names
    ratios = [scales[1][n] / scales[0][n] for n in (first, *names[:1])]
    assert any(ratio == pytest.approx(wanted, rel=1e-3) for ratio in ratios)


def test_scales_learn_slower_than_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, float]] = []

    class Spy(torch.optim.AdamW):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            told.append(
                {str(tuple(p.shape)): g["lr"] for g in self.param_groups for p in g["params"]}
            )
            super().step()

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    training = TrainingSettings(steps=2, batch_size=8, learning_rate=0.01, warmup=0.0)
    base = Quantize(
        "W4A4", first_last_bits=None, reconstruction=ReconstructionSettings(iterations=0)
    )
    compress(
        (tiny_network("no-batch-norm"), tiny_spec("no-batch-norm")),
        tiny_images(), QuantizeAware(base, training, held_out=0), seed=0,
    )  # fmt: skip
    assert told[0]["(8, 3, 3, 3)"] == pytest.approx(0.01)
    # Logarithms of scales, of a channel each and of a tensor.
    assert told[0]["(8, 1, 1, 1)"] == told[0]["()"] == pytest.approx(0.001)


class Recording(nn.Module):
    """Records the outputs of dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.dropped: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        self.dropped.append(F.dropout(torch.ones(20), 0.5, self.training))
        logits: Tensor = self.head(pooled)
        return logits


def test_every_step_drops_for_itself() -> None:
    spec = ModelSpec("gray", "module", (3, 8, 8), (0.0,) * 3, (1.0,) * 3, 2)
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    data = ImageSet(images, torch.zeros(8, dtype=torch.long), torch.zeros(8, 2), {})
    student = Recording().train()
    settings = TrainingSettings(steps=3, batch_size=8)
    train_(student, Recording().eval(), data, spec, settings, seed=0)
    assert len({tuple(each.tolist()) for each in student.dropped}) == 3
