"""Random dropping of quantization, in one pass, against the plain version."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixmix.compress.quantize.dropping import fake_quantize, mix_inputs
from mixmix.runtime.compiled import has_compiler

needs_numba = pytest.mark.skipif(not has_compiler(), reason="numba is not installed")
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    quantized: Tensor = torch._fake_quantize_learnable_per_tensor_affine(
        x, scale.view(1), zero_point.view(1), 0, 2**bits - 1, 1.0
    )
    return quantized


@needs_numba
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("bits", "zero_point"), [(2, 0.0), (4, 7.0), (8, 0.0)])
@pytest.mark.parametrize("quantize_prob", [1.0, 0.3])
def test_one_pass_gives_the_values_and_gradients_of_the_plain_version(
    layout: torch.memory_format, bits: int, zero_point: float, quantize_prob: float
) -> None:
    x = draw(6, 5, 17, 13).contiguous(memory_format=layout).requires_grad_(True)
    scale = torch.tensor(0.21, requires_grad=True)
    zero = torch.tensor(zero_point)
    out = fake_quantize(x, scale, zero, bits, quantize_prob=quantize_prob)
    assert out.stride() == x.stride()
    # A layout of the gradient that is not that of the values must not matter.
    gradient = draw(6, 5, 17, 13, seed=1)
    out.backward(gradient)
    found = (x.grad, scale.grad)
    x.grad = scale.grad = None
    quantized = plain(x, scale, zero, bits)
    kept = (out != x).detach()
    assert torch.allclose(out[kept], quantized[kept], atol=1e-6)
    share = float(kept.float().mean())
    assert abs(share - quantize_prob) < 0.03
    torch.where(kept, quantized, x).backward(gradient)
    assert found[0] is not None and found[1] is not None
    assert x.grad is not None and scale.grad is not None
    assert torch.equal(found[0], x.grad)
    assert float(found[1]) == pytest.approx(float(scale.grad), rel=1e-4, abs=1e-3)


def test_the_output_may_be_overwritten() -> None:
    def gradients(*, in_place: bool) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        x, scale = draw(4000).requires_grad_(True), torch.tensor(0.3, requires_grad=True)
        out = fake_quantize(x, scale, torch.tensor(3.0), 3, quantize_prob=0.5)
        out = out.add_(1.0) if in_place else out + 1.0
        out.square().sum().backward()
        assert x.grad is not None and scale.grad is not None
        return x.grad, scale.grad

    with torch.random.fork_rng():
        for one, other in zip(gradients(in_place=True), gradients(in_place=False), strict=True):
            assert torch.equal(one, other)


def test_the_generator_decides_what_is_dropped() -> None:
    def dropped(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return fake_quantize(draw(1000), torch.tensor(0.3), torch.tensor(8.0), 4, quantize_prob=0.5)

    with torch.random.fork_rng():
        assert torch.equal(dropped(3), dropped(3))
        assert not torch.equal(dropped(3), dropped(4))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixed_inputs_come_from_both(layout: torch.memory_format) -> None:
    first = torch.zeros(9, 4, 11, 12).contiguous(memory_format=layout)
    second = torch.arange(1.0, 10).view(-1, 1, 1, 1).expand(9, 4, 11, 12)
    chosen = torch.tensor([7, 0, 7, 3])
    mixed = mix_inputs(first, second, chosen, quantize_prob=0.25)
    taken = mixed > 0
    rows = (chosen + 1.0).view(-1, 1, 1, 1).expand_as(mixed)
    assert torch.equal(mixed[taken], rows[taken])
    # Five standard deviations of the mean of as many coins.
    assert abs(float(taken.float().mean()) - 0.25) < 5 * (0.25 * 0.75 / mixed.numel()) ** 0.5
    assert not torch.equal(taken[0], taken[2])
    # Neighbors are drawn for themselves, in both directions.
    for shift in ((1, 0), (0, 1)):
        pairs = taken & taken.roll(shift, dims=(2, 3))
        assert abs(float(pairs.float().mean()) - 0.0625) < 0.03
    everything = mix_inputs(first, second, chosen, quantize_prob=1.0)
    assert torch.equal(everything, second[chosen])
