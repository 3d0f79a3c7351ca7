"""Which values are dropped in learning, and what layers that share an input get."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE
from torch import Tensor, nn

from mixmix.compress.quantize.insertion import insert_quantizers
from mixmix.compress.quantize.learnable import LearnableActivation
from mixmix.graph.capture import capture

EXAMPLE = torch.randn(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    """Two layers take what one gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.left, self.right = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return (torch.relu(self.left(x)) * torch.relu(self.right(x))).mean((2, 3))


def inserted(**options: object) -> tuple[dict[str, int], list[LearnableActivation]]:
    graph_module = capture(Shared().eval(), EXAMPLE)
    defaults: dict[str, object] = {
        "weight_bits": 4,
        "activation_bits": 4,
        "first_last_bits": None,
        "input_bits": 8,
        "per_channel": True,
        "quantize_prob": 0.5,
    }
    bits = insert_quantizers(graph_module, **(defaults | options))  # type: ignore[arg-type]
    found = [m for m in graph_module.modules() if isinstance(m, LearnableActivation)]
    return bits, found


def test_what_has_eight_bits_is_never_dropped() -> None:
    # QDrop (Wei et al. 2022) is for coarse steps; of 8 bits there is next to no error to drop.
    _, quantizers = inserted()
    shares = {(each.bits, each.quantize_prob) for each in quantizers}
    assert shares == {(8, 1.0), (4, 0.5)}


@pytest.mark.parametrize(("left", "right"), [(3, 6), (6, 3), (8, 2)])
def test_a_shared_input_has_the_most_bits_that_one_asks_for(left: int, right: int) -> None:
    bits, _ = inserted(layer_bits={"left": (4, left), "right": (4, right)})
    assert bits["left"] == bits["right"] == max(left, right)
