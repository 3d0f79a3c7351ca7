"""Likeness within a class against plain loops, and gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seeded import tensor

from mixmix.synthesis.terms.similarity import similarity_loss


def test_similarity_against_a_loop() -> None:
    images, labels = tensor(6, 2, 16, 8), torch.tensor([0, 1, 0, 0, 1, 2])
    flat = (images - images.mean((2, 3), keepdim=True)).flatten(1).numpy()
    found = []
    for i in range(6):
        for j in range(6):
            if i != j and labels[i] == labels[j]:
                lengths = np.linalg.norm(flat[i]) * np.linalg.norm(flat[j])
                found.append((flat[i] @ flat[j] / lengths) ** 2)
    assert float(similarity_loss(images, labels)) == pytest.approx(np.mean(found))


def test_similarity_is_of_layout_within_a_class() -> None:
    image = tensor(1, 3, 20, 20)
    pair = torch.cat([image, image * 0.5 + 0.2])
    assert float(similarity_loss(pair, torch.zeros(2))) == pytest.approx(1)
    assert float(similarity_loss(pair, torch.arange(2))) == 0
