"""Exported programs of PyTorch, loaded without running code from the file."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import Tensor

from mixmix.errors import DataError, InputError, first_line
from mixmix.runtimes.program_safety import check_program

__all__ = ["METADATA_KEYS", "ProgramSession"]

# See mixmix.export.notes.
METADATA_KEYS = ("mixmix.spec", "mixmix.settings", "mixmix.version")


class ProgramSession:
    """An exported program of one batch of images, on the CPU.

    Args:
        program: path of a ``.pt2`` file, or its bytes.

    Raises:
        InputError: if there is no such file.
        DataError: if PyTorch cannot load it, or if it contains more than a program.
    """

    def __init__(self, program: str | Path | bytes) -> None:
        if not isinstance(program, bytes):
            if not Path(program).is_file():
                raise InputError(f"no exported program at {program}; pass the path of the export")
            check_program(Path(program), quantized=True)
        self.name = "the exported program" if isinstance(program, bytes) else str(program)
        notes = dict.fromkeys(METADATA_KEYS, "")
        try:
            source = io.BytesIO(program) if isinstance(program, bytes) else str(program)
            self._module = torch.export.load(source, extra_files=notes).module()
        except Exception as error:  # a damaged archive raises many kinds
            raise DataError(
                f"{self.name} is not a program that PyTorch can load: {first_line(error)}"
            ) from error
        self.metadata = {key: text for key, text in notes.items() if text}

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalized images (N, C, H, W) float32.

        Raises:
            InputError: if the images do not fit the program.
        """
        try:
            logits: Tensor = self._module(images.detach().cpu())
        except Exception as error:
            raise InputError(
                f"{self.name} cannot run on images of {tuple(images.shape)}: {first_line(error)}"
            ) from error
        return logits
