"""The bundled architectures: small CIFAR classifiers of different families.

This module has those with BatchNorm, ``layer_norm_architectures`` those without. Each maps
normalized images (N, 3, 32, 32) to logits (N, num_classes), with at most 45 million multiply-adds,
so that the demo runs in minutes on a laptop.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mixmix.demo.layer_norm_architectures import ConvNext, VisionTransformer

__all__ = ["ARCHITECTURES", "MobileNetV2", "ResNet", "Vgg", "VovNet", "build_architecture"]


def _conv_bn(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, and optionally an activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(out_channels),
    ]
    if activation is not None:
        layers.append(activation(inplace=True))
    return nn.Sequential(*layers)


class _Head(nn.Sequential):
    """Global average pooling, flattening and the linear classifier."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(in_features, num_classes)
        )


class _Residual(nn.Module):
    """``relu(body(x) + shortcut(x))``; the shortcut is a 1x1 convolution where shapes differ."""

    def __init__(self, body: nn.Module, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else _conv_bn(in_channels, out_channels, 1, stride, activation=None)
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.body(x) + self.shortcut(x))
        return out


class ResNet(nn.Sequential):
    """Basic-block residual network (He et al. 2016), with early strides to stay small."""

    def __init__(
        self,
        widths: tuple[int, ...] = (48, 96, 160),
        depths: tuple[int, ...] = (1, 1, 1),
        stem_width: int = 16,
        num_classes: int = 10,
    ) -> None:
        layers: list[nn.Module] = [_conv_bn(3, stem_width, 3)]
        channels = stem_width
        for width, depth in zip(widths, depths, strict=True):
            for index in range(depth):
                stride = 2 if index == 0 else 1
                body = nn.Sequential(
                    _conv_bn(channels, width, 3, stride),
                    _conv_bn(width, width, 3, activation=None),
                )
                layers.append(_Residual(body, channels, width, stride))
                channels = width
        super().__init__(*layers, _Head(channels, num_classes))


class Vgg(nn.Sequential):
    """Plain 3x3 convolutions with BatchNorm and max pooling (Simonyan & Zisserman 2015)."""

    def __init__(
        self,
        stem_width: int = 24,
        widths: tuple[int, ...] = (48, 96, 160),
        depth: int = 2,
        num_classes: int = 10,
    ) -> None:
        layers: list[nn.Module] = [_conv_bn(3, stem_width, 3)]
        channels = stem_width
        for width in widths:
            layers.append(nn.MaxPool2d(2))
            for _ in range(depth):
                layers.append(_conv_bn(channels, width, 3))
                channels = width
        super().__init__(*layers, _Head(channels, num_classes))


class _InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, linear projection (Sandler et al. 2018, figure 3)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(_conv_bn(in_channels, hidden, 1, activation=nn.ReLU6))
        layers += [
            _conv_bn(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6),
            _conv_bn(hidden, out_channels, 1, activation=None),
        ]
        self.body = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.has_shortcut else out


class MobileNetV2(nn.Sequential):
    """Inverted residuals with depthwise convolutions (Sandler et al. 2018)."""

    def __init__(
        self,
        stem_width: int = 24,
        widths: tuple[int, ...] = (24, 24, 48, 96),
        depths: tuple[int, ...] = (1, 1, 3, 2),
        strides: tuple[int, ...] = (2, 1, 2, 2),
        expansions: tuple[int, ...] = (1, 4, 6, 6),
        head_width: int = 384,
        num_classes: int = 10,
    ) -> None:
        layers: list[nn.Module] = [_conv_bn(3, stem_width, 3, activation=nn.ReLU6)]
        channels = stem_width
        for width, depth, first_stride, expansion in zip(
            widths, depths, strides, expansions, strict=True
        ):
            for index in range(depth):
                stride = first_stride if index == 0 else 1
                layers.append(_InvertedResidual(channels, width, stride, expansion))
                channels = width
        layers.append(_conv_bn(channels, head_width, 1, activation=nn.ReLU6))
        super().__init__(*layers, _Head(head_width, num_classes))


class _OneShotAggregation(nn.Module):
    """A chain of 3x3 convolutions; a 1x1 convolution merges all their outputs."""

    def __init__(self, in_channels: int, width: int, out_channels: int, depth: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            _conv_bn(in_channels if index == 0 else width, width, 3) for index in range(depth)
        )
        self.merge = _conv_bn(in_channels + depth * width, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for convolution in self.convolutions:
            features.append(convolution(features[-1]))
        out: Tensor = self.merge(torch.cat(features, dim=1))
        return out


class VovNet(nn.Sequential):
    """One-shot aggregation, a CPU-friendly variant of DenseNet (VoVNet, Lee et al. 2019)."""

    def __init__(
        self,
        stem_width: int = 24,
        widths: tuple[int, ...] = (40, 56, 72),
        out_widths: tuple[int, ...] = (80, 112, 192),
        depth: int = 3,
        num_classes: int = 10,
    ) -> None:
        layers: list[nn.Module] = [_conv_bn(3, stem_width, 3)]
        channels = stem_width
        for width, out_width in zip(widths, out_widths, strict=True):
            layers += [
                nn.MaxPool2d(2),
                _OneShotAggregation(channels, width, out_width, depth),
            ]
            channels = out_width
        super().__init__(*layers, _Head(channels, num_classes))


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "resnet": ResNet,
    "vgg": Vgg,
    "mobilenetv2": MobileNetV2,
    "vovnet": VovNet,
    "vit": VisionTransformer,
    "convnext": ConvNext,
}


def build_architecture(name: str, **options: object) -> nn.Module:
    """Build a bundled architecture with fresh weights.

    Args:
        name: a key of ``ARCHITECTURES``.
        options: arguments of its constructor, such as ``num_classes``.

    Raises:
        KeyError: if ``name`` is unknown.
    """
    if name not in ARCHITECTURES:
        raise KeyError(f"unknown architecture {name!r}; known: {', '.join(sorted(ARCHITECTURES))}")
    model = ARCHITECTURES[name](**options)
    _initialize(model)
    return model


@torch.no_grad()
def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
