"""Warps against SciPy's geometry, in pixels, of images that are no squares."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor

from mixmix.data.warping import WarpRange, draw_warps, warp_images

SIZE = (12, 30)


def in_pixels(matrices: Tensor, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(N, 2, 2) from (x, y) of a view to (x, y) of its source, about the middle, in pixels.

    ``torch.nn.functional.affine_grid`` counts in halves of the width and of the height.
    """
    height, width = size
    halves = np.diag([width / 2, height / 2])
    assert not bool(matrices[:, :, 2].any())
    return np.asarray(halves @ matrices[:, :, :2].double().numpy() @ np.linalg.inv(halves))


def drawn(count: int = 400, seed: int = 0, **ranges: float) -> tuple[np.ndarray, Tensor]:
    within = WarpRange(
        *({"fraction": 1.0, "rotation": 0.0, "zoom": 1.0, "stretch": 1.0} | ranges).values()
    )
    warps = draw_warps(count, SIZE, within, generator=torch.Generator().manual_seed(seed))
    return in_pixels(warps.matrix), warps.chosen


def test_turning_keeps_distances_in_pixels() -> None:
    matrices, _ = drawn(rotation=90.0)
    for matrix in matrices:
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-5)
        assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-5)
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert stats.kstest(angles, stats.uniform(-90, 180).cdf).pvalue > 0.01


def test_zoom_is_the_same_both_ways_and_uniform_in_its_logarithm() -> None:
    matrices, _ = drawn(zoom=3.0)
    np.testing.assert_allclose(matrices[:, 0, 0], matrices[:, 1, 1], rtol=1e-5)
    np.testing.assert_allclose(matrices[:, [0, 1], [1, 0]], 0, atol=1e-6)
    reach = math.log(3)
    found = stats.kstest(np.log(matrices[:, 0, 0]), stats.uniform(-reach, 2 * reach).cdf)
    assert found.pvalue > 0.01


def test_stretch_changes_the_ratio_of_sides_and_not_the_area() -> None:
    matrices, _ = drawn(stretch=2.0)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, rtol=1e-5)
    ratios = np.log(matrices[:, 0, 0] / matrices[:, 1, 1])
    reach = math.log(2)
    assert stats.kstest(ratios, stats.uniform(-reach, 2 * reach).cdf).pvalue > 0.01


def test_turned_and_stretched_at_once() -> None:
    matrices, _ = drawn(rotation=40.0, zoom=1.5, stretch=1.8)
    lengths = np.linalg.norm(matrices, axis=2)
    rows = matrices / lengths[:, :, None]
    np.testing.assert_allclose((rows[:, 0] * rows[:, 1]).sum(1), 0, atol=1e-5)
    factors, ratios = np.sqrt(lengths.prod(1)), lengths[:, 0] / lengths[:, 1]
    assert factors.max() <= 1.5001 and factors.max() > 1.4 and factors.min() < 1 / 1.4
    assert ratios.max() <= 1.8001 and ratios.max() > 1.7 and ratios.min() < 1 / 1.7


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_fraction_of_images(fraction: float) -> None:
    _, chosen = drawn(count=2000, fraction=fraction)
    # Five standard deviations of as many coins.
    allowed = 5 * math.sqrt(fraction * (1 - fraction) / 2000)
    assert abs(float(chosen.float().mean()) - fraction) <= allowed


def test_pixels_are_those_of_scipy() -> None:
    images = torch.rand(6, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    within = WarpRange(0.7, 50.0, 1.6, 1.5)
    warps = draw_warps(6, SIZE, within, generator=torch.Generator().manual_seed(1))
    found = warp_images(images, warps)
    assert 0 < int(warps.chosen.sum()) < 6
    middle = (np.array(SIZE) - 1) / 2
    for image, view, matrix, is_warped in zip(
        images, found, in_pixels(warps.matrix), warps.chosen, strict=True
    ):
        if not is_warped:
            assert torch.equal(view, image)
            continue
        by_rows = matrix[::-1, ::-1]  # SciPy has (y, x)
        for channel, wanted in zip(view, image, strict=True):
            expected = ndimage.affine_transform(
                wanted.numpy(),
                by_rows,
                offset=middle - by_rows @ middle,
                order=1,
                mode="reflect",  # the edge is doubled, as with align_corners=False
            )
            np.testing.assert_allclose(channel.numpy(), expected, atol=2e-4)
