from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mixmix.data import procedural
from mixmix.data.procedural import dead_leaves, pink_noise


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return dead_leaves(shape, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def radial_slope(images: Tensor) -> float:
    """Exponent of the amplitude spectrum over frequencies, by least squares on logarithms."""
    side = images.shape[-1]
    gray = images.mean(1)
    amplitude = torch.fft.fft2(gray - gray.mean((1, 2), keepdim=True)).abs().mean(0)
    frequency = torch.hypot(*torch.meshgrid([torch.fft.fftfreq(side)] * 2, indexing="ij"))
    within = (frequency > 1.5 / side) & (frequency < 0.4)
    x, y = frequency[within].log(), amplitude[within].log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


@pytest.mark.parametrize("shape", [(5, 3, 32, 32), (2, 1, 28, 28), (3, 4, 20, 37), (1, 3, 1, 1)])
def test_any_number_of_channels_and_size(shape: tuple[int, ...]) -> None:
    images = drawn(*shape)
    assert images.shape == shape and images.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert images.min() >= 0 and images.max() <= 1


def test_large_images_are_drawn_at_their_own_size() -> None:
    assert drawn(1, 3, 160, 128).shape == (1, 3, 160, 128)


def test_the_same_seed_gives_the_same_images_and_another_others() -> None:
    assert torch.equal(drawn(4, 3, 16, 16), drawn(4, 3, 16, 16))
    assert not torch.equal(drawn(4, 3, 16, 16), drawn(4, 3, 16, 16, seed=1))
    images = drawn(4, 3, 16, 16)
    assert not torch.equal(images[0], images[1])


def test_images_are_drawn_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procedural, "_CHUNK_PIXELS", 1)
    images = drawn(3, 2, 8, 8)
    assert images.shape == (3, 2, 8, 8)
    assert len({tuple(image.flatten().tolist()) for image in images}) == 3


def test_amplitudes_fall_about_as_in_photographs() -> None:
    """Amplitude f^-a with a of 0.8 to 1.5 in photographs (Tolhurst et al. 1992); here blurred."""
    assert -2.0 < radial_slope(drawn(64, 3, 64, 64)) < -0.8


def test_edges_make_differences_of_pixels_heavy_tailed() -> None:
    """Kurtosis of differences is 3 for Gaussian noise, and far more in photographs."""

    def kurtosis(images: Tensor) -> float:
        steps = images.diff(dim=3).flatten()
        return float((steps - steps.mean()).pow(4).mean() / steps.var().square())

    noise = pink_noise(
        (64, 3, 32, 32), own_fraction=0.25, generator=torch.Generator().manual_seed(0)
    )
    assert kurtosis(noise) < 3.5
    assert kurtosis(drawn(64, 3, 32, 32)) > 6


def test_channels_are_correlated_and_contrast_is_that_of_photographs() -> None:
    images = drawn(256, 3, 32, 32)
    correlation = torch.corrcoef(images.transpose(0, 1).flatten(1))
    assert 0.75 < correlation[0, 1] < 0.99 and 0.75 < correlation[1, 2] < 0.99
    assert math.isclose(images.mean().item(), 0.47, abs_tol=0.04)
    assert 0.2 < images.std().item() < 0.32
