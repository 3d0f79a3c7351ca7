"""Small random networks of every family, seeded, with BatchNorm statistics of forward passes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from mixmix import ImageSet
from mixmix.demo.architectures import MobileNetV2, ResNet, Vgg, VovNet
from mixmix.models import Model, ModelSpec

NUM_CLASSES = 4
INPUT_SHAPE = (3, 16, 16)


class SqueezeExcitation(nn.Module):
    """Channel gates from globally pooled features (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, channels // 2, 1)
        self.expand = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = torch.sigmoid(self.expand(torch.relu(self.reduce(self.pool(x)))))
        return x * gates


def grouped_with_excitation() -> nn.Module:
    """Grouped convolutions and squeeze-and-excitation, as in RegNetY."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        SqueezeExcitation(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(16, NUM_CLASSES),
    )


class Shuffle(nn.Module):
    """Half of the channels pass, half are convolved, and both are shuffled (Ma et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.body = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        passed, convolved = x.chunk(2, dim=1)
        joined = torch.cat([passed, self.body(convolved)], dim=1)
        batch, channels, height, width = joined.shape
        shuffled = joined.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return shuffled.reshape(batch, channels, height, width)


def shuffled() -> nn.Module:
    """Split, concatenated and shuffled channels, as in ShuffleNetV2."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Shuffle(8),
        Shuffle(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(8, NUM_CLASSES),
    )


def without_batch_norm() -> nn.Module:
    """Convolutions with biases and no normalization at all."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(1),
        nn.Linear(16, NUM_CLASSES),
    )


class Viewed(nn.Module):
    """Its code flattens by ``view`` and a number, as many classifiers do: contiguous alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(4),
        )
        self.classifier = nn.Linear(12 * 2 * 2, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).view(-1, 12 * 2 * 2))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Vgg(8, (8, 16), depth=1, num_classes=NUM_CLASSES),
    "residual": lambda: ResNet((8, 16), (1, 1), stem_width=8, num_classes=NUM_CLASSES),
    "depthwise": lambda: MobileNetV2(
        8, (8, 8), (1, 2), (2, 1), (1, 3), head_width=16, num_classes=NUM_CLASSES
    ),
    "concat": lambda: VovNet(8, (8, 8), (8, 16), depth=2, num_classes=NUM_CLASSES),
    "grouped-excitation": grouped_with_excitation,
    "shuffle": shuffled,
    "no-batch-norm": without_batch_norm,
    "viewed": Viewed,
}


def tiny_spec(name: str, **changes: object) -> ModelSpec:
    """The spec of a tiny network; every family has its own normalization."""
    shift = 0.02 * sorted(NETWORKS).index(name)
    fields: dict[str, object] = {
        "name": name,
        "source": "module",
        "input_shape": INPUT_SHAPE,
        "mean": (0.5 + shift, 0.48, 0.45),
        "std": (0.25, 0.24, 0.26 + shift),
        "num_classes": NUM_CLASSES,
        "label_set": "tiny",
    }
    return ModelSpec.from_dict(fields | changes)


@cache
def _state(name: str) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(sorted(NETWORKS).index(name))
        model = NETWORKS[name]().train()
        with torch.no_grad():
            for _ in range(8):
                model(torch.randn(16, *INPUT_SHAPE))
    return {key: value.clone() for key, value in model.state_dict().items()}


def tiny_network(name: str) -> nn.Module:
    """A fresh copy of a tiny network in eval mode, always with the same weights."""
    with torch.random.fork_rng():
        model = NETWORKS[name]()
    model.load_state_dict(_state(name))
    return model.eval()


def tiny_teacher(name: str) -> Model:
    """A tiny network as the member of a zoo."""
    return Model(tiny_network(name), tiny_spec(name))


def tiny_images(count: int = 32) -> ImageSet:
    """Noise in the shape of a data set, always the same."""
    pixels = torch.rand(count, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % NUM_CLASSES
    return ImageSet(pixels, labels, torch.full((count, NUM_CLASSES), 1 / NUM_CLASSES), {})


class TinyStudent(nn.Sequential):
    """To be distilled into."""

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__(
            nn.Conv2d(INPUT_SHAPE[0], 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Linear(6, num_classes),
        )
