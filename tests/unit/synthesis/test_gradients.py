from __future__ import annotations

import warnings

import pytest
import torch
from tiny_networks import tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import AmortizedSettings, Zoo, generate, recipe, synthesize
from mixmix.errors import MixmixWarning
from mixmix.synthesis.gradients import check_gradients


class _Behind(nn.Module):
    """A network behind an operation on its images."""

    def __init__(self, operation: str) -> None:
        super().__init__()
        self.operation, self.network = operation, tiny_network("plain")

    def forward(self, x: Tensor) -> Tensor:
        if self.operation == "round":
            x = (32 * x).round() / 32
        elif self.operation == "cast":
            x = (32 * x).to(torch.int16).float() / 32
        elif self.operation == "no grad":
            with torch.no_grad():
                return self.network(x)  # type: ignore[no-any-return]
        elif self.operation == "scale":
            x = 255 * x
        return self.network(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("operation", ["round", "cast", "no grad"])
def test_networks_without_gradients_are_reported(operation: str) -> None:
    pair = (_Behind(operation), tiny_spec("plain"))
    with pytest.warns(MixmixWarning, match="plain have no gradient with respect to the images"):
        synthesize([pair], recipe("mixmix", num_images=4, batch_size=4, iterations=1))
    with pytest.warns(MixmixWarning, match="no gradient"):
        generate([pair], AmortizedSettings(steps=1, batch_size=4), num_images=4, warmup_rounds=0)


@pytest.mark.parametrize("operation", ["", "scale"])
def test_networks_with_gradients_are_not(operation: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_gradients(Zoo.load([(_Behind(operation), tiny_spec("plain"))]))
