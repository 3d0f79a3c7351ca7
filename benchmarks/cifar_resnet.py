"""CIFAR ResNets (He et al. 2016, section 4.2) in the form of public checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from mixmix import ModelSpec


class BasicBlock(nn.Module):
    """Its shortcut has no parameters (option A): every second pixel, new channels zero."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new_channels = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.new_channels:
            side = self.new_channels // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))
        return F.relu(out + x)


class CifarResNet(nn.Module):
    """(N, 3, 32, 32) to (N, 10); ``depth`` is 6 n + 2."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        channels = 16
        for stage, width in enumerate((16, 32, 64), start=1):
            blocks = []
            for index in range((depth - 2) // 6):
                stride = 2 if index == 0 and stage > 1 else 1
                blocks.append(BasicBlock(channels, width, stride))
                channels = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean((2, 3)))


def load_resnet(weights: Path, depth: int) -> tuple[nn.Module, ModelSpec]:
    """A checkpoint of akamaster/pytorch_resnet_cifar10 and its spec."""
    # Only here, since environments of other tools use the architecture without mixmix.
    from mixmix import ModelSpec

    model = CifarResNet(depth)
    model.load_state_dict(load_file(weights))
    spec = ModelSpec(
        name=f"resnet{depth}",
        source=f"python:cifar_resnet:resnet{depth}",
        input_shape=(3, 32, 32),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        num_classes=10,
        label_set="cifar10",
    )
    return model.eval(), spec
