"""ONNX files in ONNX Runtime, with short error messages and no output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from mixmix.errors import DataError, InputError, first_line, raise_if_out_of_memory
from mixmix.runtimes.file_ends import FileEnds
from mixmix.runtimes.fixed_batches import in_batches_of
from mixmix.runtimes.onnx_reading import read_onnx

__all__ = ["OnnxSession", "session_with_values"]

# ONNX Runtime also prints the errors that it raises; 4 prints fatal ones only.
_FATAL_ONLY = 4
_MOST_CHANNELS = 4


class OnnxSession:
    """A model with one input and at least one output, on the CPU.

    Args:
        model: path of an ONNX file, or its bytes.
        threads: threads within an operator; 0 for ONNX Runtime's default.
        options: further options of ONNX Runtime; changed in place.

    Raises:
        InputError: if there is no such file.
        DataError: if ONNX Runtime cannot run it, or it has several inputs.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        threads: int = 0,
        options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        if not isinstance(model, bytes):
            read_onnx(Path(model))
        self.name = "the ONNX model" if isinstance(model, bytes) else str(model)
        options = onnxruntime.SessionOptions() if options is None else options
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # its exceptions have no common base class
            raise_if_out_of_memory(error)
            raise DataError(
                f"{self.name} is not a model that ONNX Runtime can run: {first_line(error)}"
            ) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise DataError(f"{self.name} takes {len(inputs)} inputs, expected one batch of images")
        self._input = inputs[0].name
        self._dtype = np.float16 if inputs[0].type == "tensor(float16)" else np.float32
        self._ends = FileEnds.from_metadata(self.metadata)
        # Free axes, such as the batch, are strings.
        self.input_shape: tuple[int | str, ...] = tuple(inputs[0].shape)
        self.output_shape: tuple[int | str, ...] = tuple(self._session.get_outputs()[0].shape)
        self._channels_last = _has_channels_last(self.input_shape)

    @property
    def image_shape(self) -> tuple[int | str, ...]:
        """``input_shape`` as (N, C, H, W), also if the file takes (N, H, W, C)."""
        shape = self.input_shape
        return (shape[0], shape[3], *shape[1:3]) if self._channels_last else shape

    def run(self, images: Tensor) -> Tensor:
        """The first output, logits (N, K), of normalized images (N, C, H, W) float32.

        Images are transposed for a file that takes (N, H, W, C), and run in batches of the size
        that it was written for.

        Raises:
            InputError: if the images do not fit the model.
        """

        def logits(batch: Tensor) -> Tensor:
            return self._ends.logits(torch.from_numpy(self.outputs(batch)[0]).float())

        return in_batches_of(self.input_shape[0] if self.input_shape else None, logits, images)

    def oriented(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) with the channels where the file takes them."""
        is_other = self._channels_last and images.shape[3] != self.input_shape[3]
        return images.permute(0, 2, 3, 1) if is_other else images

    def outputs(
        self, images: Tensor, names: Sequence[str] | None = None
    ) -> list[np.ndarray[Any, np.dtype[Any]]]:
        """The outputs of these names, or all, of normalized images (N, C, H, W) float32.

        Raises:
            InputError: if the images do not fit the model.
        """
        return self.run_feed(self.feed(images), names)

    def feed(self, images: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
        """Normalized images (N, C, H, W) float32 as the model takes them."""
        if self._ends.pixels:
            return self._ends.feed(images)
        return self._ends.feed(self.oriented(images)).astype(self._dtype)

    def run_feed(
        self, values: np.ndarray[Any, np.dtype[Any]], names: Sequence[str] | None = None
    ) -> list[np.ndarray[Any, np.dtype[Any]]]:
        """The outputs of what ``feed`` returned.

        Raises:
            InputError: if the images do not fit the model.
        """
        try:
            found: list[np.ndarray[Any, np.dtype[Any]]] = self._session.run(
                names, {self._input: values}
            )
        except Exception as error:
            raise_if_out_of_memory(error)
            raise InputError(
                f"{self.name} cannot run on images of {values.shape}, it takes "
                f"{self.input_shape}: {first_line(error)}"
            ) from error
        return found

    def batch_shape(self, batch_size: int) -> tuple[int, ...]:
        """Shape (N, C, H, W) of a batch.

        Raises:
            InputError: if the size of images is not fixed.
        """
        shape = self.input_shape[1:]
        sizes = tuple(size for size in shape if isinstance(size, int))
        if len(sizes) < len(shape):
            raise InputError(
                f"{self.name} leaves the size of its images open: {self.input_shape}; export it "
                "with a fixed height and width"
            )
        if self._channels_last:
            sizes = (sizes[-1], *sizes[:-1])
        return batch_size, *sizes

    def end_profiling(self) -> Path:
        """Finish the profile that ``options`` enabled, and return its path."""
        return Path(self._session.end_profiling())

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the file."""
        return dict(self._session.get_modelmeta().custom_metadata_map)


def session_with_values(model: onnx.ModelProto, names: Iterable[str]) -> OnnxSession:
    """A session that also returns the values of these names inside the graph.

    The network runs as it is written, without ONNX Runtime's rewrites and integer kernels.

    Args:
        model: the network; the values become outputs, in place.
        names: of the values; those that are outputs stay so.

    Raises:
        DataError: if ONNX Runtime cannot run it, or it has several inputs.
    """
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return OnnxSession(model.SerializeToString(), options=options)


def _has_channels_last(shape: Sequence[int | str]) -> bool:
    """Whether only the last axis of images can be the channels."""
    if len(shape) != 4:
        return False
    few = [isinstance(size, int) and 1 <= size <= _MOST_CHANNELS for size in shape]
    return few[3] and not few[1]
