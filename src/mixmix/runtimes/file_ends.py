"""What an ONNX file does before and after its network: preprocessing and probabilities."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["FileEnds", "logits_of"]

# Probabilities below it are taken for it.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class FileEnds:
    """The input and the output of a file, as its metadata say; see ``docs/deploy.md``.

    Attributes:
        pixels: whether it takes bytes, which it normalizes itself.
        layout: NCHW or NHWC.
        mean: of the normalization, per channel.
        std: of the normalization, per channel.
        probabilities: whether it returns them: ``softmax`` or ``sigmoid``; else empty.
    """

    pixels: bool = False
    layout: str = "NCHW"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    probabilities: str = ""

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> FileEnds:
        """Those of a file of mixmix; of others, normalized images and logits."""
        if "mixmix.version" not in metadata or "output" not in metadata:
            return cls()
        return cls(
            pixels=metadata.get("input_type") == "uint8",
            layout=metadata.get("input_layout", "NCHW"),
            mean=tuple(json.loads(metadata.get("mean", "[]"))),
            std=tuple(json.loads(metadata.get("std", "[]"))),
            probabilities="" if metadata["output"] == "logits" else metadata["output"],
        )

    def feed(self, images: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
        """What the file takes for normalized images (N, C, H, W)."""
        images = images.detach().cpu()
        if not self.pixels:
            return images.numpy()
        std, mean = (torch.tensor(each).view(1, -1, 1, 1) for each in (self.std, self.mean))
        pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
        if self.layout == "NHWC":
            pixels = pixels.permute(0, 2, 3, 1)
        return pixels.contiguous().numpy()

    def logits(self, outputs: Tensor) -> Tensor:
        """Logits of the outputs, up to what probabilities do not tell."""
        if not self.probabilities:
            return outputs
        outputs = outputs.clamp(_SMALLEST, 1 - _SMALLEST)
        return outputs.logit() if self.probabilities == "sigmoid" else outputs.log()


def logits_of(logits: Tensor, probabilities: str) -> Tensor:
    """The logits that ``FileEnds.logits`` finds for a network's own."""
    if not probabilities:
        return logits
    outputs = logits.sigmoid() if probabilities == "sigmoid" else logits.softmax(1)
    return FileEnds(probabilities=probabilities).logits(outputs)
