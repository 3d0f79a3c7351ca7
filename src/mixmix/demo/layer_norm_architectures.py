"""The bundled architectures without BatchNorm: a vision transformer and a ConvNeXt.

They map normalized images (N, 3, 32, 32) to logits (N, num_classes), and serve as targets of
compression that hold no statistics of their training data.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ConvNext", "VisionTransformer"]


class _Attention(nn.Module):
    """Multi-head self-attention over (N, T, D), without fused operators."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (width // num_heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(dim=-1)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads[0], heads[1], heads[2]
        weights = self.softmax(torch.matmul(query * self.scale, key.transpose(-2, -1)))
        mixed = torch.matmul(weights, value).transpose(1, 2).flatten(2)
        out: Tensor = self.proj(mixed)
        return out


class _Mlp(nn.Module):
    """Two linear layers with GELU between them, along the last axis."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class _TransformerBlock(nn.Module):
    """Attention and MLP, each with a LayerNorm before it and a shortcut around it."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _Tokens(nn.Module):
    """Tokens (N, 64, D) of images: two strided convolutions, then learned position embeddings.

    Two convolutions instead of one with stride four speed up training (Xiao et al. 2021).
    """

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 4, 3, stride=2, padding=1)
        self.activation = nn.GELU()
        self.conv2 = nn.Conv2d(width // 4, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(0.02 * torch.randn(1, num_tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.activation(self.conv1(x)))
        return x.flatten(2).transpose(1, 2) + self.positions


class VisionTransformer(nn.Module):
    """Vision transformer with mean pooling instead of a class token (Dosovitskiy et al. 2021)."""

    def __init__(
        self,
        width: int = 128,
        depth: int = 5,
        num_heads: int = 4,
        mlp_ratio: int = 2,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.tokens = _Tokens(width, num_tokens=64)
        self.blocks = nn.Sequential(
            *(_TransformerBlock(width, num_heads, mlp_ratio * width) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.blocks(self.tokens(x))).mean(1))
        return out


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = super().forward(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class _ConvNextBlock(nn.Module):
    """Depthwise convolution, LayerNorm, MLP over channels, layer scale, shortcut."""

    def __init__(self, width: int, kernel_size: int, hidden: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            width, width, kernel_size, padding=kernel_size // 2, groups=width
        )
        self.norm = nn.LayerNorm(width)
        self.mlp = _Mlp(width, hidden)
        self.scale = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        channels_last = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        out: Tensor = x + (self.mlp(channels_last) * self.scale).permute(0, 3, 1, 2)
        return out


class ConvNext(nn.Sequential):
    """ConvNeXt with a stem of 2x2 patches (Liu et al. 2022)."""

    def __init__(
        self,
        widths: tuple[int, ...] = (48, 96, 160),
        depths: tuple[int, ...] = (2, 2, 2),
        kernel_size: int = 7,
        mlp_ratio: int = 4,
        num_classes: int = 10,
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 2, stride=2), _ChannelNorm(widths[0])]
        channels = widths[0]
        for width, depth in zip(widths, depths, strict=True):
            if width != channels:
                layers += [_ChannelNorm(channels), nn.Conv2d(channels, width, 2, stride=2)]
                channels = width
            layers += [_ConvNextBlock(width, kernel_size, mlp_ratio * width) for _ in range(depth)]
        layers += [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.LayerNorm(channels),
            nn.Linear(channels, num_classes),
        ]
        super().__init__(*layers)
