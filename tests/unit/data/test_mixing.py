from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mixmix.data.mixing import draw_boxes
from mixmix.data.views import jitter_and_flip
from mixmix.synthesis.initial import balanced_labels, initial_images


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.01, 0.98),
    st.floats(0.0, 1.0),
    st.integers(0, 2**32),
)
def test_boxes_lie_inside_the_image(
    height: int, width: int, low: float, stretch: float, seed: int
) -> None:
    high = low + (0.99 - low) * stretch
    boxes = draw_boxes(50, (height, width), (low, high), generator=generator(seed))
    assert (boxes.top >= 0).all() and (boxes.top + boxes.height <= height).all()
    assert (boxes.left >= 0).all() and (boxes.left + boxes.width <= width).all()
    assert (boxes.height >= 1).all() and (boxes.width >= 1).all()
    fraction = boxes.fraction((height, width))
    assert (fraction > 0).all() and (fraction <= 1).all()


def test_fraction_of_boxes_is_uniform_and_so_is_their_place() -> None:
    boxes = draw_boxes(20_000, (224, 224), (0.1, 0.5), generator=generator())
    fraction = boxes.fraction((224, 224))
    # Mean and deviation of a uniform distribution on [0.1, 0.5]: 0.3 and 0.4 / sqrt(12).
    assert abs(float(fraction.mean()) - 0.3) < 0.003
    assert abs(float(fraction.std()) - 0.4 / 12**0.5) < 0.003
    center = boxes.top + boxes.height / 2
    assert abs(float(center.mean()) - 112) < 1.5


def test_every_place_is_reached() -> None:
    boxes = draw_boxes(2_000, (4, 4), (0.25, 0.25), generator=generator())
    places = {(int(t), int(left)) for t, left in zip(boxes.top, boxes.left, strict=True)}
    assert places == {(t, left) for t in range(3) for left in range(3)}


def test_jitter_and_flip_move_pixels_and_keep_them_all() -> None:
    images = torch.arange(2 * 3 * 5 * 7.0).view(2, 3, 5, 7)
    seen = set()
    for seed in range(200):
        view = jitter_and_flip(images, jitter=1, flip=True, generator=generator(seed))
        assert torch.equal(view.flatten(1).sort().values, images.flatten(1))
        seen.add(tuple(view[0, 0].flatten().tolist()))
    assert len(seen) == 3 * 3 * 2


def test_flips_are_from_left_to_right_in_half_of_the_cases() -> None:
    images = torch.rand(2, 3, 5, 7, generator=generator())
    views = [
        jitter_and_flip(images, jitter=0, flip=True, generator=generator(seed))
        for seed in range(100)
    ]
    mirrored = images[:, :, :, [6, 5, 4, 3, 2, 1, 0]]
    assert all(torch.equal(view, images) or torch.equal(view, mirrored) for view in views)
    assert 30 < sum(torch.equal(view, mirrored) for view in views) < 70


def test_no_jitter_and_no_flip_change_nothing() -> None:
    images = torch.rand(2, 3, 5, 7)
    assert torch.equal(jitter_and_flip(images, jitter=0, flip=False, generator=generator()), images)


@given(st.integers(1, 50), st.integers(0, 12))
def test_labels_are_balanced(num_images: int, num_classes: int) -> None:
    labels = balanced_labels(num_images, num_classes)
    assert labels.shape == (num_images,) and labels.dtype == torch.int64
    counts = labels.bincount(minlength=max(1, num_classes))
    assert counts.max() - counts.min() <= 1
    assert len(counts) == max(1, num_classes)


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("shape", [(50, 3, 16, 16), (300, 1, 7, 9), (300, 3, 1, 8)])
def test_noise_lies_in_range(kind: str, shape: tuple[int, int, int, int]) -> None:
    noise = initial_images(kind, shape, generator=generator())
    assert noise.shape == shape
    assert noise.min() >= 0 and noise.max() <= 1
    assert abs(float(noise.mean()) - 0.5) < 0.05
    again = initial_images(kind, shape, generator=generator())
    assert torch.equal(noise, again)


def test_pink_noise_has_equal_energy_in_every_octave() -> None:
    images = initial_images("pink", (400, 3, 32, 32), generator=generator()) - 0.5
    energy = torch.fft.fft2(images).abs().square().mean((0, 1))
    frequency = torch.hypot(*torch.meshgrid([torch.fft.fftfreq(32)] * 2, indexing="ij"))
    octaves = [
        float(energy[(frequency >= low) & (frequency < 2 * low)].sum()) for low in (1 / 16, 1 / 8)
    ]
    assert octaves[0] == pytest.approx(octaves[1], rel=0.2)
    # Channels have most in common.
    red, green = images[:, 0].flatten(), images[:, 1].flatten()
    assert float(torch.corrcoef(torch.stack([red, green]))[0, 1]) > 0.6
