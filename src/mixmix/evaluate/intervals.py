"""Confidence intervals."""

from __future__ import annotations

import math

from mixmix.errors import InputError

__all__ = ["wilson_interval"]


def wilson_interval(hits: float, n: int) -> tuple[float, float]:
    """95% interval of a probability of which ``hits`` in ``n`` trials were seen, within [0, 1].

    ``hits`` may also be a sum of values in [0, 1]: their variance is at most that of zeros and ones
    with the same mean, so the interval of their mean is then rather too wide than too narrow. (The
    same interval of SciPy, ``binomtest(hits, n).proportion_ci``, takes whole counts only.)

    E. B. Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Raises:
        InputError: unless 0 <= hits <= n and n > 0.
    """
    if n < 1 or not 0 <= hits <= n:
        raise InputError(f"an interval needs 0 <= hits <= n and n > 0, got {hits} of {n}")
    z = 1.959963984540054  # the 97.5% quantile of the standard normal distribution
    share = hits / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    margin = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At both ends the two terms cancel, and what is left would be rounding.
    return (
        0.0 if hits == 0 else center - margin,
        1.0 if hits == n else center + margin,
    )
