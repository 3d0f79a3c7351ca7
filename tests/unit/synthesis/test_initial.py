from __future__ import annotations

import pytest

from mixmix.synthesis.initial import balanced_labels


@pytest.mark.parametrize(
    ("num_images", "num_classes", "expected"),
    [
        (5, 3, [0, 1, 2, 0, 1]),
        (3, 3, [0, 1, 2]),
        (4, 10, [0, 2, 5, 7]),
        (1, 10, [0]),
        (2, 0, [0, 0]),
    ],
)
def test_labels_are_balanced_and_spread(
    num_images: int, num_classes: int, expected: list[int]
) -> None:
    assert balanced_labels(num_images, num_classes).tolist() == expected
