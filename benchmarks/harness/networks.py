"""Networks by name."""

from __future__ import annotations

from pathlib import Path

import torch
from cifar_resnet import CifarResNet, load_resnet
from torch import nn

from mixmix import Model, ModelSpec
from mixmix.models import build_model, load_model, load_spec

__all__ = ["fresh_network", "load_network", "load_target"]


def load_network(name: str, weights_dir: Path) -> tuple[nn.Module, ModelSpec]:
    """``resnet20``, ``resnet44``, ``bundled:NAME``, ``torchvision:NAME@SIDE``, ``timm:NAME@SIDE``.

    The last two have random weights, which cost the same as trained ones.
    """
    if name.startswith(("torchvision:", "timm:")):
        return _random(name)
    if name.startswith("bundled:"):
        spec = load_spec(name)
        return load_model(spec), spec
    return load_resnet(weights_dir / f"{name}.safetensors", int(name.removeprefix("resnet")))


def fresh_network(name: str, *, seed: int) -> nn.Module:
    """``resnet20`` and so on, or ``bundled:NAME``, with weights as before training."""
    torch.manual_seed(seed)
    if name.startswith("bundled:"):
        return build_model(load_spec(name))
    return CifarResNet(int(name.removeprefix("resnet")))


def load_target(weights_dir: Path) -> Model:
    """The network that the images have to serve."""
    return Model(*load_network("resnet20", weights_dir))


def _random(text: str) -> tuple[nn.Module, ModelSpec]:
    library, _, rest = text.partition(":")
    name, _, side = rest.partition("@")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        model = timm.create_model(name, pretrained=False, num_classes=10)
    else:
        import torchvision

        model = torchvision.models.get_model(name, weights=None, num_classes=10)
    spec = ModelSpec(
        name=f"{name}-{side}",
        source="module",
        input_shape=(3, int(side), int(side)),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_classes=10,
    )
    return model.eval(), spec
