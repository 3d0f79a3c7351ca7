"""Every layer is in the record, and whatever stays in float says why."""

from __future__ import annotations

import torch
from tiny_networks import INPUT_SHAPE
from torch import Tensor, nn
from torch.nn import functional as F

from mixmix.compress.method import LayerRecord
from mixmix.compress.quantize.insertion import insert_quantizers
from mixmix.compress.quantize.records import record_layers
from mixmix.graph.capture import capture
from mixmix.graph.fold import fold_batch_norms

EXAMPLE = torch.randn(4, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))


def records(model: nn.Module) -> dict[str, LayerRecord]:
    model = model.eval().requires_grad_(False)
    graph_module = capture(model, EXAMPLE)
    folded = fold_batch_norms(graph_module, EXAMPLE)
    bits = insert_quantizers(
        graph_module,
        weight_bits=4,
        activation_bits=4,
        first_last_bits=None,
        input_bits=8,
        per_channel=True,
        quantize_prob=1.0,
    )
    found = record_layers(model, graph_module, folded, bits, dict.fromkeys(bits, 0.5), {})
    return {record.name: record for record in found}


class Attention(nn.Module):
    """A patch embedding and an attention block, as in a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.position = nn.Parameter(torch.rand(1, 16, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        return self.head(tokens.mean(1))


def test_attention_is_quantized_but_for_its_products() -> None:
    found = records(Attention())
    for name in ("embed", "attention.in_proj", "attention.out_proj", "head"):
        assert (found[name].action, found[name].weight_bits) == ("quantized", 4)
        assert found[name].error == 0.5
    assert found["attention.in_proj"].num_parameters == 8 * 24 + 24
    assert found["attention"].reason == "its weights are quantized as attention.in_proj"
    assert "LayerNorm stays in float" in found["norm"].reason
    assert "parameters that Attention uses outside of its layers" in found[""].reason
    products = [r for name, r in found.items() if "scaled_dot_product_attention" in name]
    assert products and all("stays in float" in record.reason for record in products)


class Odd(nn.Module):
    """Layers of kinds that stay in float, each with the reason."""

    def __init__(self) -> None:
        super().__init__()
        self.reflected = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.along = nn.Conv1d(4, 4, 3)
        self.standardized = nn.Conv2d(4, 4, 1)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.along(self.up(self.reflected(x)).flatten(2))
        weight = self.standardized.weight
        x = F.conv2d(x.unsqueeze(3), weight - weight.mean(), self.standardized.bias)
        return self.head(x.mean((2, 3)))


def test_every_other_layer_has_its_reason() -> None:
    found = records(Odd())
    assert found["head"].action == "quantized"
    reasons = {name: record.reason for name, record in found.items() if record.reason}
    assert found["reflected"].action == "quantized"  # torch.export takes the padding out of it
    assert "ConvTranspose2d stays in float" in reasons["up"]
    assert "Conv1d stays in float" in reasons["along"]
    assert "computed in the forward pass" in reasons["standardized"]
    assert reasons["unused"] == "not called in the forward pass"
    assert any("conv2d of activations stays in float" in reason for reason in reasons.values())


def test_reflected_padding_is_recorded_where_torch_fx_follows() -> None:
    layers = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()
    found = records(nn.Sequential(*layers, nn.Flatten(1), nn.Linear(4 * 16 * 16, 4)))
    assert found["0"].action == "skipped" and "padding_mode='circular'" in found["0"].reason
    assert found["3"].action == "quantized"
