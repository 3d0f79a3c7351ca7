"""Pictures of Pillow to tensors and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mixmix.errors import DataError, InputError

__all__ = ["is_picture", "read_picture", "to_picture", "to_tensor"]

_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
    + (".avif",)
)
_MODES = {1: "L", 3: "RGB"}


def is_picture(path: Path) -> bool:
    """Whether a file's name says that it is one; hidden files are none."""
    hidden = path.name.startswith(".")
    return path.suffix.lower() in _SUFFIXES and not hidden and path.is_file()


def read_picture(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """A file as an image of this shape; see ``to_tensor``.

    Raises:
        DataError: if it cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            return to_tensor(picture, shape)
    except InputError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise DataError(f"cannot read the picture {path}: {error}; mend or remove it") from error


def to_tensor(picture: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """A picture as an image (C, H, W) in [0, 1].

    It is turned as its EXIF data says, scaled to cover (H, W) and cropped to its center, as
    photographs are before a classifier sees them.

    Args:
        picture: of any size and mode.
        shape: (C, H, W); C is 1 or 3.

    Raises:
        InputError: for another number of channels.
    """
    channels, height, width = shape
    if channels not in _MODES:
        raise InputError(
            f"a picture has 1 or 3 channels, {channels} are needed; give images as a tensor"
        )
    turned = ImageOps.exif_transpose(picture).convert(_MODES[channels])
    if turned.size != (width, height):
        turned = ImageOps.fit(turned, (width, height), method=Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(turned, dtype=np.uint8)).view(height, width, channels)
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def to_picture(image: Tensor) -> Image.Image:
    """An image (1 or 3, H, W) in [0, 1] as 8-bit Pillow picture.

    Raises:
        InputError: for another number of channels.
    """
    if image.shape[0] not in (1, 3):
        raise InputError(
            f"a picture has 1 or 3 channels, these images have {image.shape[0]}; use the shards"
        )
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
