"""Confidence intervals."""

from __future__ import annotations

import math

from scipy.special import ndtri

from mixmix.errors import InputError

__all__ = ["percent_interval", "wilson_interval"]


def wilson_interval(hits: float, n: int) -> tuple[float, float]:
    """95% confidence interval, within [0, 1], of a probability from ``hits`` in ``n`` trials.

    ``hits`` may also be a sum of values in [0, 1], for which ``scipy.stats.binomtest`` has no
    interval: their variance is at most that of zeros and ones, so the interval is conservative.

    E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Raises:
        InputError: unless 0 <= hits <= n and n > 0.
    """
    if n < 1 or not 0 <= hits <= n:
        raise InputError(f"an interval needs 0 <= hits <= n and n > 0, got {hits} of {n}")
    z = float(ndtri(0.975))
    mean = hits / n
    center = (mean + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    # At both ends, the difference is exactly 0 but for rounding.
    return (
        0.0 if hits == 0 else center - margin,
        1.0 if hits == n else center + margin,
    )


def percent_interval(hits: float, n: int) -> tuple[float, float]:
    """``wilson_interval`` in percent."""
    low, high = wilson_interval(hits, n)
    return 100 * low, 100 * high
