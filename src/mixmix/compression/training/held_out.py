"""Images that training does not see, to judge by what it did."""

from __future__ import annotations

from mixmix.synthesis.dataset import SyntheticDataset

__all__ = ["hold_out"]

# At least so many images are trained on for each that is held out.
_TRAINED_PER_HELD_OUT = 8


def hold_out(
    data: SyntheticDataset, num_images: int
) -> tuple[SyntheticDataset, SyntheticDataset | None]:
    """The images to train on, and those to judge by.

    Args:
        data: all of them.
        num_images: to judge by, the last ones; at most one of nine. With none, there is nothing to
            judge by.
    """
    count = min(num_images, len(data) // (_TRAINED_PER_HELD_OUT + 1))
    return data.split(len(data) - count) if count else (data, None)
