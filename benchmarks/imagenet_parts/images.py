"""Labeled photographs from ImageNet, for evaluation only."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

__all__ = ["load_photographs"]


def load_photographs(folder: Path, side: int) -> tuple[Tensor, Tensor]:
    """Every JPEG of a folder as EfficientNet sees it: bicubic resize, center crop.

    Args:
        folder: names begin with the index of the class.
        side: of the crop, in pixels; 7/8 of the short side of the resized photograph.

    Returns:
        Images (N, 3, side, side) in uint8 and labels (N,), in the order of names.
    """
    prepare = v2.Compose(
        [
            v2.Resize(round(side * 256 / 224), v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(side),
            v2.PILToTensor(),
        ]
    )
    images, labels = [], []
    for path in sorted(folder.glob("*.[jJ][pP]*[gG]")):
        with Image.open(path) as photograph:
            images.append(prepare(photograph.convert("RGB")))
        labels.append(int(path.name.split("_")[0]))
    if not images:
        raise SystemExit(f"no JPEG in {folder}")
    return torch.stack(images), torch.tensor(labels)
