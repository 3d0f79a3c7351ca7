"""Conversion of images: Pillow images, files, uint8 and float tensors."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mixmix.errors import DataError, InputError, first_line, raise_if_out_of_memory

__all__ = [
    "channels_last_hint",
    "encoded",
    "is_image_file",
    "opened",
    "pil_to_tensor",
    "read_image",
    "tensor_to_pil",
    "to_unit_range",
    "upright",
]

_SUFFIXES = frozenset(
    ".png .jpg .jpeg .webp .bmp .gif .tif .tiff .ppm .pgm .jp2 .avif".split()  # noqa: SIM905
)
_MODES = {1: "L", 3: "RGB"}
# Formats whose images of mode "I" have values up to 65535.
_OF_16_BITS = ("PNG", "PPM")
# Decoders and resizing overshoot [0, 1] by rounding; normalized images exceed it by far.
_RANGE_TOLERANCE = 0.01
# Larger values are bytes.
_MOST_NORMALIZED = 16
_AS_THEY_ARE = "pass them without normalization, mixmix applies the model's own"
_MOST_PIXELS = 10**8


def channels_last_hint(shape: Sequence[int], channels: int) -> str:
    """``"; ... pass images.permute(...)"`` about images (N, H, W, C) or (H, W, C), or nothing."""
    if len(shape) not in (3, 4) or shape[-1] != channels or shape[-3] == channels:
        return ""
    permuted = "images.permute(0, 3, 1, 2)" if len(shape) == 4 else "images.permute(2, 0, 1)[None]"
    return f"; channels come before height and width: pass {permuted}"


def is_image_file(path: Path) -> bool:
    """Whether a path is a file with the suffix of an image format, and not hidden."""
    return path.suffix.lower() in _SUFFIXES and path.name[0] != "." and path.is_file()


def read_image(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read a file as an image (C, H, W) of this shape; see ``pil_to_tensor``.

    Raises:
        DataError: if the file cannot be decoded.
    """
    try:
        with opened(path) as image:
            return pil_to_tensor(image, shape)
    except InputError:
        raise
    except Exception as error:  # decoders raise many types
        raise_if_out_of_memory(error)
        raise DataError(
            f"cannot read the image {path}: {first_line(error)}; fix or remove it"
        ) from error


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file, unless it is small as a file and huge in memory.

    Raises:
        ValueError: if it has too many pixels.
    """
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        count = image.width * image.height
        if count > _MOST_PIXELS:
            raise ValueError(f"it has {count:,} pixels, at most {_MOST_PIXELS:,} are read")
        yield image


def pil_to_tensor(image: Image.Image, shape: tuple[int, int, int]) -> Tensor:
    """Convert a Pillow image of any size and mode to (C, H, W) in [0, 1].

    It is rotated by its EXIF orientation, scaled to cover (H, W) and cropped to its center.

    Raises:
        InputError: if C is neither 1 nor 3.
    """
    channels, height, width = shape
    if channels not in _MODES:
        raise InputError(
            f"image files have 1 or 3 channels, expected {channels}; pass images as a tensor"
        )
    image = upright(image, channels)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).view(height, width, channels)
    return pixels.permute(2, 0, 1).contiguous().float() / 255


def upright(image: Image.Image, channels: int) -> Image.Image:
    """An image with 1 or 3 channels of 8 bits, rotated by its EXIF orientation.

    Pillow itself clips pixels of more than 8 bits to 255.

    Raises:
        ValueError: if its pixels have 32 bits, whose range is not known.
    """
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _OF_16_BITS)
    image = ImageOps.exif_transpose(image)
    if is_16_bit:
        values = np.asarray(image).astype(np.float64)
        image = Image.fromarray((values * (255 / 65535)).round().clip(0, 255).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, and their range is unknown; save it with 8 bits")
    return image.convert(_MODES[channels])


def tensor_to_pil(image: Tensor) -> Image.Image:
    """Convert an image (C, H, W) in [0, 1] to an 8-bit Pillow image.

    Raises:
        InputError: if C is neither 1 nor 3.
    """
    if image.shape[0] not in _MODES:
        raise InputError(
            f"image files have 1 or 3 channels, got {image.shape[0]}; use ImageSet.save instead"
        )
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def to_unit_range(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]; uint8 is divided by 255.

    Raises:
        DataError: if they have another type or range.
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise DataError(f"images must be uint8 or floats in [0, 1], got {images.dtype}")
    if not images.numel():
        return images.float()
    low, high = float(images.min()), float(images.max())
    if math.isnan(low):
        raise DataError("images must be in [0, 1], got NaN values")
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise DataError(
            f"images must be in [0, 1], got values from {low:.3g} to {high:.3g}; "
            + ("divide them by 255" if low >= 0 and high > _MOST_NORMALIZED else _AS_THEY_ARE)
        )
    return images.float()


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    """The bytes of an image's file.

    Raises:
        MemoryError: if there is too little; zlib's own error says "configuration".
    """
    buffer = io.BytesIO()
    try:
        image.save(buffer, format)
    except OSError as error:  # no file is written, so that nothing else can fail
        raise MemoryError(f"too little memory for a {format} of {image.size} pixels") from error
    return buffer.getvalue()
