"""How threads of an operation wait for one another.

By default they spin. On a machine that does other work too, the thread waited for often has no
core, and spinning takes it from it: reconstruction was measured to take five times as long beside
one busy process, and no longer than the work itself when waiting threads sleep. On an idle machine
there is no difference.
"""

from __future__ import annotations

import os
import sys

__all__ = ["sleep_while_waiting"]


def sleep_while_waiting() -> bool:
    """Set ``OMP_WAIT_POLICY=PASSIVE`` in the environment, unless it has a value.

    OpenMP reads it once, when torch is imported. The command line calls this; importing mixmix does
    not.

    Returns:
        Whether it can still take effect: False once torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return "torch" not in sys.modules
