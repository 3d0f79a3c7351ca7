"""Storage of the activations of all images: tensors in memory, or mapped from temporary files."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Callable

import torch
from torch import Tensor, fx

from mixmix.errors import InputError
from mixmix.graph.costs import largest_activation
from mixmix.runtime.machine import memory_bytes
from mixmix.runtime.memory_layout import memory_layout

__all__ = ["ActivationStore", "default_memory_gib", "images_at_a_time"]

# Number of such tensors within the budget: float and quantized inputs and outputs of a unit, and as
# many again for the activations of a batch within the unit.
_FRACTIONS = 8
_MOST_IMAGES = 128
# Largest number of values in an activation of a batch.
_BATCH_VALUES = 2**23


def default_memory_gib(device: torch.device) -> float:
    """Half of the memory of the machine or GPU in GiB; infinity if its size is unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1] / 2 / 2**30
    size = memory_bytes()
    return math.inf if size is None else size / 2 / 2**30


def images_at_a_time(graph_module: fx.GraphModule, example: Tensor) -> int:
    """Images in a forward pass, from the graph's largest activation for the example images."""
    return max(1, min(_MOST_IMAGES, _BATCH_VALUES // largest_activation(graph_module, example)))


class ActivationStore:
    """Allocates tensors for all images within a budget, a context manager.

    Args:
        memory_gib: memory for activations. Larger ones are in the folder for temporary files
            (``TMPDIR``), which should not itself be in memory.
        batch_size: images in a forward pass.
        device: device of batches, and of tensors in memory.
    """

    def __init__(self, memory_gib: float, *, batch_size: int, device: torch.device) -> None:
        self.memory_gib, self.batch_size, self.device = memory_gib, batch_size, device

    def __enter__(self) -> ActivationStore:
        return self

    def __exit__(self, *error: object) -> None:
        """Files end with their tensors."""

    @torch.no_grad()
    def run(self, function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """Outputs of a function for inputs (N, ...), batch by batch, without gradients.

        Raises:
            InputError: if they fit neither into memory nor onto the disk.
        """
        outputs: Tensor | None = None
        for start in range(0, len(inputs), self.batch_size):
            part = slice(start, start + self.batch_size)
            batch = function(inputs[part].to(self.device))
            if outputs is None:
                outputs = self.empty_like(batch, count=len(inputs))
            outputs[part] = batch
        assert outputs is not None, "inputs are not empty"
        return outputs

    def empty_like(self, batch: Tensor, *, count: int) -> Tensor:
        """Allocate (count, ...) with the dtype, shape and layout of ``batch`` (n, ...).

        Raises:
            InputError: if it fits neither into memory nor onto the disk.
        """
        shape = (count, *batch.shape[1:])
        layout = memory_layout(batch)
        num_bytes = math.prod(shape) * batch.element_size()
        if num_bytes * _FRACTIONS <= self.memory_gib * 2**30:
            return torch.empty(shape, dtype=batch.dtype, device=self.device, memory_format=layout)
        flat = self._mapped(num_bytes, batch.dtype)
        if layout is torch.channels_last:
            channels, height, width = shape[1:]
            return flat.view(count, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(shape)

    def _mapped(self, num_bytes: int, dtype: torch.dtype) -> Tensor:
        """Map a new file, which is removed with the tensor."""
        try:
            # Without a name, so that nothing is left, however the process ends.
            with tempfile.TemporaryFile(prefix="mixmix-") as file:
                _reserve(file.fileno(), num_bytes)
                return torch.frombuffer(mmap.mmap(file.fileno(), num_bytes), dtype=dtype)
        except OSError as error:
            raise InputError(
                f"{num_bytes / 2**30:.2f} GiB of activations fit neither into memory (memory_gib "
                f"is {self.memory_gib:g}, for {_FRACTIONS} such tensors) nor into "
                f"{tempfile.gettempdir()}: {error.strerror or error}. Set TMPDIR to a folder with "
                "more room, raise memory_gib, or use fewer images"
            ) from error


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Allocate disk space now: running out of it later would be a signal, not an exception."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
        return
    zeros = bytes(2**20)
    for start in range(0, num_bytes, len(zeros)):
        os.write(descriptor, zeros[: num_bytes - start])
