"""Labelled photographs of ImageNet, for evaluation alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["load_photographs"]


def load_photographs(
    folder: Path, side: int, *, crop_share: float = 0.875
) -> tuple[Tensor, Tensor]:
    """Every JPEG of a folder as EfficientNet sees it: bicubic resize, centre crop.

    Args:
        folder: names begin with the index of the class.
        side: of the crop, in pixels.
        crop_share: side of the crop over the short side of the resized photograph.

    Returns:
        Images (N, 3, side, side) in uint8 and labels (N,), in the order of names.
    """
    images, labels = [], []
    for path in sorted(folder.glob("*.[jJ][pP]*[gG]")):
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        scale = round(side / crop_share) / min(photograph.size)
        size = (
            max(side, round(photograph.width * scale)),
            max(side, round(photograph.height * scale)),
        )
        photograph = photograph.resize(size, Image.Resampling.BICUBIC)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        crop = photograph.crop((left, top, left + side, top + side))
        images.append(torch.from_numpy(np.array(crop)).permute(2, 0, 1))
        labels.append(int(path.name.split("_")[0].split("-")[0]))
    if not images:
        raise SystemExit(f"no JPEG in {folder}")
    return torch.stack(images), torch.tensor(labels)
