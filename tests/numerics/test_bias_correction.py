"""Bias correction: means of channels before the activation function, as in the float network."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mixmix.compress.activation_store import ActivationStore
from mixmix.compress.quantize.bias_correction import correct_biases
from mixmix.compress.quantize.calibrate_units import learnable_units
from mixmix.compress.quantize.learnable import LearnableLayer, Phase, set_phase
from mixmix.graph.quantized import QuantizedLayer
from mixmix.graph.units import Unit

STORE = ActivationStore(1.0, batch_size=7, device=torch.device("cpu"))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit_of(*layers: nn.Module) -> Unit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight)
    wrapped = [
        LearnableLayer(layer.requires_grad_(False), 2, per_channel=True)
        if isinstance(layer, nn.Conv2d | nn.Linear)
        else layer
        for layer in layers
    ]
    root = nn.Sequential(*wrapped)
    graph = fx.Graph()
    node = graph.placeholder("x")
    for index in range(len(wrapped)):
        node = graph.call_module(str(index), (node,))
    graph.output(node)
    module = fx.GraphModule(root, graph)
    names = [str(i) for i, m in enumerate(wrapped) if isinstance(m, LearnableLayer)]
    return Unit(module, tuple(names))


def learnable(unit: Unit) -> list[LearnableLayer]:
    return [m for m in unit.module.modules() if isinstance(m, LearnableLayer)]


def test_means_before_each_activation_function_are_those_in_floats() -> None:
    first, second = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 4, 1)
    unit = unit_of(first, nn.ReLU(), second, nn.ReLU())
    float_inputs = draw(10, 3, 8, 8)
    quantized_inputs = float_inputs + 0.3 * draw(10, 3, 8, 8, seed=1) + 0.2
    correct_biases(unit, float_inputs, quantized_inputs, learnable(unit), store=STORE)

    def means(x: Tensor, *, quantized: bool) -> list[Tensor]:
        layers = learnable(unit)
        w1, w2 = (m.grid.value(m.q) if quantized else m.layer.weight for m in layers)
        c1, c2 = (m.bias_correction if quantized else torch.zeros(()) for m in layers)
        one = F.conv2d(x, w1) + c1.view(-1, 1, 1)
        other = F.conv2d(one.relu(), w2, second.bias) + c2.view(-1, 1, 1)
        return [one.mean((0, 2, 3)), other.mean((0, 2, 3))]

    def spread(a: list[Tensor], b: list[Tensor]) -> list[float]:
        return [float((x - y).abs().max()) for x, y in zip(a, b, strict=True)]

    wanted = means(float_inputs, quantized=False)
    assert max(spread(wanted, means(quantized_inputs, quantized=True))) < 1e-5
    for layer in learnable(unit):
        assert float(layer.bias_correction.abs().max()) > 0.05
    assert not any(m._forward_hooks for m in unit.module.modules())


def test_deployed_layers_carry_the_correction_and_floats_do_not() -> None:
    unit = unit_of(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3))
    inputs = draw(20, 5)
    set_phase(unit.module, Phase.FLOAT)
    before = unit.module(inputs)
    correct_biases(unit, inputs, inputs, learnable(unit), store=STORE)
    quantized = unit.module(inputs)
    set_phase(unit.module, Phase.FLOAT)
    assert torch.equal(unit.module(inputs), before)
    deployed = [layer.deployed() for layer in learnable(unit)]
    assert all(isinstance(layer, QuantizedLayer) and layer.bias is not None for layer in deployed)
    assert torch.equal(deployed[1](deployed[0](inputs).relu()), quantized)


def test_a_corrected_layer_is_not_corrected_again() -> None:
    unit = unit_of(nn.Linear(5, 4))
    (layer,) = learnable(unit)
    correct_biases(unit, draw(9, 5), draw(9, 5), [layer], store=STORE)
    first = layer.bias_correction
    correct_biases(unit, draw(9, 5), draw(9, 5, seed=3), [layer], store=STORE)
    assert layer.bias_correction is first
    assert learnable_units(unit.module)[0].layers == ("0",)
