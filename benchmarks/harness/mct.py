"""Images that model-compression-toolkit generates, in an environment of its own.

The toolkit asks for older versions of packages than mixmix takes by default.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from torch import Tensor

from mixmix.runtime.storage import read_tensors

__all__ = ["make_images", "read_images"]


def make_images(
    path: Path,
    network: str,
    *,
    interpreter: str,
    weights_dir: Path,
    num_images: int,
    iterations: int | None,
    seed: int,
) -> None:
    """Write ``images`` to a safetensors file, and their cost to a ``.json`` beside it.

    Args:
        path: of the images; the toolkit's output goes to a ``.log`` beside them.
        network: see ``load_network``.
        interpreter: of an environment with ``model-compression-toolkit`` and mixmix.
        iterations: None for the toolkit's default.
    """
    command = [interpreter, str(Path(__file__).with_name("mct_generate.py"))]
    command += ["--network", network, "--weights-dir", str(weights_dir), "--out", str(path)]
    command += ["--num-images", str(num_images), "--seed", str(seed)]
    if iterations is not None:
        command += ["--iterations", str(iterations)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".log"), "w", encoding="utf-8") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def read_images(path: Path) -> Tensor:
    """Images (N, C, H, W) in [0, 1] of a file that ``make_images`` wrote."""
    return read_tensors(path)[0]["images"]
