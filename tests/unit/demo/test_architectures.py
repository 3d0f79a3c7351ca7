from __future__ import annotations

import pytest
import torch
from torch import nn

from mixmix.demo.architectures import ARCHITECTURES, build_architecture


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_logits_and_cost(name: str) -> None:
    model = build_architecture(name, num_classes=7).eval()
    multiply_adds = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal multiply_adds
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        multiply_adds += weight[0].numel() * output.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    # The promise of the module's docstring.
    assert multiply_adds <= 45e6


def test_families_differ_in_what_makes_them_hard() -> None:
    convolutions = {
        name: [m for m in build_architecture(name).modules() if isinstance(m, nn.Conv2d)]
        for name in ARCHITECTURES
    }
    assert any(conv.groups == conv.in_channels for conv in convolutions["mobilenetv2"])
    assert all(conv.groups == 1 for conv in convolutions["resnet"])


def test_unknown_name() -> None:
    with pytest.raises(
        KeyError, match="unknown architecture 'lenet'; known: convnext, mobilenetv2"
    ):
        build_architecture("lenet")


def test_shortcuts_pass_what_enters() -> None:
    model = build_architecture("resnet").eval()
    blocks = [m for m in model.modules() if hasattr(m, "body") and hasattr(m, "shortcut")]
    assert blocks
    for block in blocks:
        seen: list[torch.Tensor] = []
        block.shortcut.register_forward_hook(lambda m, x, y, seen=seen: seen.append(y))
        for part in block.body.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.zeros_(part.weight)
        block.register_forward_hook(
            lambda m, x, y, seen=seen: torch.testing.assert_close(y, seen[0].relu())
        )
    with torch.no_grad():
        model(torch.rand(1, 3, 32, 32))
