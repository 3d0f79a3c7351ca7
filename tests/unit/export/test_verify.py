"""When a file counts as the same function: by the model's own sensitivity to rounding."""

import copy

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import Compressed, ImageSet, Quantize, compress
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import ExportError
from mixmix.export import verify
from mixmix.export.verify import check_agreement, logit_error, noisy_logits, probe_images
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer
from mixmix.models.model import Model

IMAGES = torch.rand(64, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def low_bit() -> Compressed:
    labels = torch.arange(64) % NUM_CLASSES
    data = ImageSet(IMAGES, labels, torch.full((64, NUM_CLASSES), 1 / NUM_CLASSES), {})
    method = Quantize("W2A2", reconstruction=ReconstructionSettings(iterations=0))
    return compress((tiny_network("residual"), tiny_spec("residual")), data, method, seed=0)


def nudged(model: nn.Module, share: float) -> nn.Module:
    """A copy that moves what it rounds by up to this share of a step, as another runtime would."""
    moved = copy.deepcopy(model)
    draws = torch.Generator().manual_seed(5)

    def nudge(quantizer: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        assert isinstance(quantizer, QuantizedActivation)
        noise = 2 * torch.rand(inputs[0].shape, generator=draws) - 1
        return inputs[0] + share * quantizer.scale * noise

    for module in moved.modules():
        if isinstance(module, QuantizedActivation):
            module.register_forward_pre_hook(nudge)
    return moved


def own_error(compressed: Compressed, images: Tensor) -> float:
    model = Model(compressed.module, compressed.spec)
    wanted = torch.cat([model(batch) for batch in images.split(25)])
    return logit_error(noisy_logits(compressed, images), wanted)


def check(run: nn.Module, compressed: Compressed, max_logit_error: float) -> float:
    _, error = check_agreement(
        run, compressed, IMAGES, min_agreement=98, max_logit_error=max_logit_error
    )
    return error


def test_a_chaotic_model_may_differ_as_it_differs_from_itself(low_bit: Compressed) -> None:
    other = nudged(low_bit.module, 0.005)
    with torch.no_grad():
        error = check(other, low_bit, max_logit_error=1e-6)
    assert 1e-6 < error < 1.5 * own_error(low_bit, IMAGES)


@pytest.mark.parametrize("fault", ["scale", "zero point", "bias"])
def test_a_fault_is_more_than_that(low_bit: Compressed, fault: str) -> None:
    faulty = copy.deepcopy(low_bit.module)
    quantizer = [m for m in faulty.modules() if isinstance(m, QuantizedActivation)][2]
    layer = [m for m in faulty.modules() if isinstance(m, QuantizedLayer)][1]
    if fault == "scale":
        quantizer.scale *= 1.3
    elif fault == "zero point":
        quantizer.zero_point += 1
    else:
        assert layer.bias is not None
        layer.bias += 0.5 * layer.bias.abs().max()
    with pytest.raises(ExportError, match="does not agree"):
        check(faulty, low_bit, max_logit_error=0.01)


def test_a_float_model_has_no_error_of_its_own() -> None:
    plain = Compressed(tiny_network("residual"), tiny_spec("residual"))
    assert own_error(plain, IMAGES) == 0
    assert check(plain.module, plain, max_logit_error=1e-6) < 1e-6


def test_the_model_keeps_no_hook(low_bit: Compressed) -> None:
    first = own_error(low_bit, IMAGES)
    assert first == own_error(low_bit, IMAGES) > 0
    assert not any(module._forward_pre_hooks for module in low_bit.module.modules())


def test_probe_is_the_same_noise_every_time() -> None:
    spec = tiny_spec("plain")
    assert torch.equal(probe_images(spec), probe_images(spec))
    assert probe_images(spec).shape == (100, *INPUT_SHAPE)


@pytest.mark.parametrize(("flipped", "agrees"), [(3, True), (8, False)])
def test_as_many_classes_may_differ_as_under_the_nudge(
    flipped: int, agrees: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Compressed(tiny_network("residual"), tiny_spec("residual"))
    wanted = Model(plain.module, plain.spec)(IMAGES)
    clear = (wanted.amax(1) - wanted.amin(1)).argsort(descending=True)

    def with_other_classes(first: int, count: int) -> Tensor:
        moved, chosen = wanted.clone(), clear[first : first + count]
        moved[chosen] = -moved[chosen]
        return moved

    monkeypatch.setattr(verify, "noisy_logits", lambda *_: with_other_classes(0, 3))
    got = iter(with_other_classes(1, flipped).split(25))
    how = {"min_agreement": 98, "max_logit_error": 0.3}
    if agrees:
        check_agreement(lambda _: next(got), plain, IMAGES, **how)
    else:
        with pytest.raises(ExportError, match="does not agree"):
            check_agreement(lambda _: next(got), plain, IMAGES, **how)


def test_error_and_agreement_are_those_of_their_definitions() -> None:
    wanted = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    logits = wanted + torch.tensor([[0.3, 0.0, -0.4], [0.0, 0.0, 0.0]])
    # Mean || difference || over the spread: both images are sqrt(1.5**2 + 2**2 + 0.5**2) from
    # their mean.
    assert logit_error(logits, wanted) == pytest.approx(0.25 / 6.5**0.5, rel=1e-5)
    assert logit_error(logits + 10, wanted + 10) == pytest.approx(0.25 / 6.5**0.5, rel=1e-4)
    # One output has a spread, too; equal outputs are compared with a hundredth of their size.
    ages = torch.tensor([[20.0], [60.0]])
    assert logit_error(ages + 1, ages) == pytest.approx(1 / 20)
    assert logit_error(torch.full((2, 1), 1.1), torch.ones(2, 1)) == pytest.approx(10)

    model = tiny_network("plain")

    def run(inputs: Tensor) -> Tensor:
        """The model, but for the first image of every batch."""
        found = model(inputs).clone()
        found[0] = -found[0]
        return found

    agreement, _ = check_agreement(
        run, Compressed(model, tiny_spec("plain")), IMAGES[:50], min_agreement=0, max_logit_error=9
    )
    assert agreement == pytest.approx(96)
