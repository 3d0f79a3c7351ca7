"""Networks whose images may have several classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, TinyStudent, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import (
    ImageSet,
    Model,
    SynthesisSettings,
    Zoo,
    compress,
    estimate_accuracy,
    evaluate,
    load,
    synthesize,
)
from mixmix.errors import DataError, InputError
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


def test_evaluation_counts_labels_and_sets_of_labels() -> None:
    model = Model(tiny_network("plain"), SPEC)
    images = torch.rand(20, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    labels = (model.logits(images) >= 0).long()
    assert evaluate(model, (images, labels)).label_accuracy == 100
    labels[:5, 0] = 1 - labels[:5, 0]
    found = evaluate(model, (images, labels.float()), reference=model, batch_size=8)
    assert found.top1 == 75 and found.agreement == 100
    assert found.label_accuracy == pytest.approx(100 - 100 * 5 / (20 * NUM_CLASSES))
    assert found.predictions.shape == (20, NUM_CLASSES)
    assert "all labels right=75.0%" in repr(found) and "label_accuracy" in found.to_dict()
    for wrong in (labels[:, 0], labels + 1, labels.float() / 2):
        with pytest.raises(DataError, match="multi_label, must be 0 or 1 for each class"):
            evaluate(model, (images, wrong))
    with pytest.raises(InputError, match="an ImageSet has one label per image"):
        evaluate(model, ImageSet(images, labels[:, 0], labels.float(), {}))
    with pytest.raises(InputError, match="only plain has multi_label"):
        evaluate(
            model, (images, labels), reference=load((tiny_network("plain"), tiny_spec("plain")))
        )


def test_estimates_are_of_labels() -> None:
    model = Model(tiny_network("plain"), SPEC)
    images = torch.rand(32, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    assert estimate_accuracy(model, model, images).predicted_drop == 0
    coarse = compress(model, images, "W2A2")
    found = estimate_accuracy(coarse, model, images)
    differ = (Model(coarse.module, SPEC).logits(images) >= 0) != (model.logits(images) >= 0)
    # Soft labels are those of the reference, so that the temperature is 1.
    lost = ((2 * model.logits(images).sigmoid() - 1).abs() * differ).mean()
    assert found.predicted_drop == pytest.approx(100 * float(lost), rel=1e-3)
    assert found.agreement == pytest.approx(100 * float((~differ.any(1)).float().mean()))
