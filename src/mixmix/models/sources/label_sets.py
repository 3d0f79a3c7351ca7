"""Label sets that can be told from what a model says of its classes."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["IMAGENET1K", "imagenet1k_names", "known_label_set"]

IMAGENET1K = "imagenet1k"


def known_label_set(classes: Sequence[str]) -> str:
    """The name of the label set with these classes; empty if it is none that is known.

    ImageNet-1k is told by its number of classes, its first and its last, since every collection
    writes the names in its own way.
    """
    if len(classes) == 1000 and "tench" in classes[0] and "toilet" in classes[-1]:
        return IMAGENET1K
    return ""


def imagenet1k_names() -> tuple[str, ...]:
    """The 1,000 names, as timm writes them; empty where timm is absent."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(1000))
