"""Exported programs of PyTorch, opened without running what is in the file."""

from __future__ import annotations

import io
from pathlib import Path

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import Tensor

from mixmix.errors import DataError, InputError, first_line
from mixmix.runtimes.program_safety import check_program

__all__ = ["METADATA_KEYS", "ProgramSession"]


# What mixmix writes into the files that it exports.
METADATA_KEYS = ("mixmix.spec", "mixmix.settings", "mixmix.version")


class ProgramSession:
    """An exported program of one batch of images, on the CPU.

    Args:
        program: path of a ``.pt2`` file, or its bytes.

    Raises:
        InputError: if there is no such file.
        DataError: if PyTorch cannot load it, or if the file holds more than a program.
    """

    def __init__(self, program: str | Path | bytes) -> None:
        if not isinstance(program, bytes):
            if not Path(program).is_file():
                raise InputError(
                    f"no exported program at {program}; give the path that export wrote"
                )
            check_program(Path(program), quantized=True)
        self.name = "the exported program" if isinstance(program, bytes) else str(program)
        notes = dict.fromkeys(METADATA_KEYS, "")
        try:
            source = io.BytesIO(program) if isinstance(program, bytes) else str(program)
            loaded = torch.export.load(source, extra_files=notes)
            self._module = loaded.module()
        except Exception as error:  # a damaged archive raises many kinds
            reason = first_line(error)
            raise DataError(
                f"{self.name} is not a program that PyTorch can load: {reason}"
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
            reason = first_line(error)
            raise InputError(
                f"{self.name} cannot run on images of {tuple(images.shape)}: {reason}"
            ) from error
        return logits
