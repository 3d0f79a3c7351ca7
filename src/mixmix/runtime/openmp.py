"""How threads of an operation wait for one another; imported before torch, which then heeds it.

By default they spin. On a machine that does other work too, the thread waited for often has no
core, and spinning takes it from it: reconstruction was measured to take five times as long beside
one busy process, and no longer than the work itself when waiting threads sleep. On an idle machine
there is no difference. What the environment says already stays.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
