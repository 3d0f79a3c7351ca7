"""Networks whose images may have several classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, TinyStudent, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import Model, SynthesisSettings, Zoo, load, synthesize
from mixmix.errors import InputError
from mixmix.synthesis.terms.labels import mixed_binary_loss

SPEC = replace(tiny_spec("plain"), multi_label=True)


def test_soft_labels_are_sigmoids() -> None:
    model = Model(tiny_network("plain"), SPEC)
    images = torch.rand(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    expected = model.logits(images).sigmoid()
    torch.testing.assert_close(Zoo([model]).soft_labels(images), expected)


def test_synthesis_shows_both_labels_of_mixtures() -> None:
    model = Model(tiny_network("plain"), SPEC)
    found = synthesize(Zoo([model]), SynthesisSettings(num_images=8, batch_size=8, iterations=2))
    assert len(found) == 8
    logits = torch.tensor([[5.0, 5.0, -5.0], [5.0, -5.0, -5.0]])
    labels, partners = torch.tensor([0, 0]), torch.tensor([1, 1])
    loss = mixed_binary_loss(logits, labels, partners, torch.tensor([0.3, 0.0]))
    assert loss.item() == pytest.approx(3 * 0.00671535, rel=1e-4)


class _Ends(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.body, self.how = TinyStudent(), how

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        if self.how == "method":
            return y.sigmoid()
        if self.how == "reshaped":
            return torch.sigmoid(y[:, None]).flatten(1)
        return nn.Sigmoid()(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["method", "reshaped", "module"])
def test_a_network_that_ends_in_a_sigmoid(how: str) -> None:
    with pytest.raises(InputError, match="ends in a sigmoid, expected logits.*multi_label=True"):
        load(_Ends(how).eval(), input_shape=INPUT_SHAPE, mean=0.5, std=0.25)


def test_a_zoo_of_both_kinds() -> None:
    models = [
        Model(tiny_network("plain"), SPEC),
        load((tiny_network("residual"), tiny_spec("residual"))),
    ]
    with pytest.raises(InputError, match="only plain of plain, residual have multi_label"):
        Zoo(models)
    assert Zoo(models[:1]).num_classes == NUM_CLASSES
