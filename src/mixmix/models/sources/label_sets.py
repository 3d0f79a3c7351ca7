"""Known label sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["IMAGENET1K", "imagenet1k_names", "imagenet1k_synsets", "known_label_set"]

IMAGENET1K = "imagenet1k"


def known_label_set(classes: Sequence[str]) -> str:
    """The name of the label set with these classes, or empty if it is unknown.

    ImageNet-1k is recognized by its first and last class, since spellings differ.
    """
    if len(classes) == 1000 and "tench" in classes[0] and "toilet" in classes[-1]:
        return IMAGENET1K
    return ""


def imagenet1k_names() -> tuple[str, ...]:
    """The 1,000 names as timm spells them, or empty without timm."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(1000))


def imagenet1k_synsets() -> tuple[str, ...]:
    """WordNet's names of the 1,000 classes, such as n01440764, or empty without timm."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info: Any = ImageNetInfo("imagenet-1k")
    return tuple(info.label_names())
