"""Intervals against published numbers and another library."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from mixmix.errors import InputError
from mixmix.evaluate.intervals import wilson_interval


# statsmodels 0.15.0: proportion_confint(hits, n, alpha=0.05, method="wilson")
@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753279986288926),
        (10, 10, 0.7224672001371106, 1.0),
        (5, 10, 0.23659309051256394, 0.7634069094874361),
        (1, 3, 0.06149194472039626, 0.7923403991979523),
        (683, 1000, 0.6535068964204829, 0.7110925099738041),
        (9123, 10000, 0.9065965642806005, 0.9176867906629395),
    ],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("n", [1, 7, 100])
def test_wilson_interval_is_that_of_scipy(n: int) -> None:
    for hits in range(n + 1):
        wanted = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(hits, n) == pytest.approx(tuple(wanted), abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_interval_of_nothing(hits: int, n: int) -> None:
    with pytest.raises(InputError, match=f"got {hits} of {n}"):
        wilson_interval(hits, n)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion: comparison of
        # seven methods", Statistics in Medicine 17, table I, method 3 (score).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_as_published(hits: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


def test_a_sum_of_shares_is_between_the_counts() -> None:
    lows, highs = zip(*(wilson_interval(hits, 50) for hits in (3, 3.5, 4)), strict=True)
    assert list(lows) == sorted(lows) and list(highs) == sorted(highs)
