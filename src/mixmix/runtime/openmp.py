"""Waiting of OpenMP threads.

By default, waiting threads spin. On a busy machine, they take the cores of the threads that they
wait for: reconstruction took five times as long next to one busy process. On an idle machine there
is no difference between spinning and sleeping.
"""

from __future__ import annotations

import os
import sys

__all__ = ["sleep_while_waiting"]


def sleep_while_waiting() -> bool:
    """Set ``OMP_WAIT_POLICY=PASSIVE`` in the environment, unless it has a value.

    The command line calls this; importing mixmix does not.

    Returns:
        Whether it has an effect: False once torch is imported, which reads the variable.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return "torch" not in sys.modules
