from __future__ import annotations

import pytest
import torch
from tiny_networks import tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import Model, SynthesisSettings, Zoo, synthesize
from mixmix.errors import InputError

SETTINGS = SynthesisSettings(num_images=6, batch_size=6, iterations=6, scales=(0.5, 1.0))


class Sizes(nn.Module):
    """Keeps the sizes of the images that it sees."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model, self.seen = tiny_network(name), set[tuple[int, int]]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add(tuple(x.shape[2:]))
        logits: Tensor = self.model(x)
        return logits


class FixedSize(nn.Module):
    """Its head takes maps of one size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


def test_images_grow_and_networks_with_them() -> None:
    teacher = Model(tiny_network("plain"), tiny_spec("plain"))
    assert teacher.takes(0.5)
    small = teacher.observe(torch.rand(2, 3, 8, 8), scale=0.5)
    assert small.logits.shape == (2, 4)
    data = synthesize(Zoo([teacher]), SETTINGS, seed=0)
    assert data.images.shape == (6, 3, 16, 16)
    assert torch.equal(data.images, synthesize(Zoo([teacher]), SETTINGS, seed=0).images)


def test_a_network_of_one_size_sees_that_size() -> None:
    teacher = Model(FixedSize(), tiny_spec("plain"))
    assert not teacher.takes(0.5)
    images = torch.rand(2, 3, 8, 8)
    whole = teacher.observe(images)
    assert torch.equal(teacher.observe(images, scale=0.5).logits, whole.logits)
    assert synthesize(Zoo([teacher]), SETTINGS, seed=0).images.shape == (6, 3, 16, 16)


def test_resolutions_and_aspect_ratios_of_members_may_differ() -> None:
    shapes = {"plain": (3, 16, 24), "residual": (3, 20, 12)}
    models = {name: tiny_network(name) for name in shapes}
    zoo = Zoo.load(
        [(models[name], tiny_spec(name, input_shape=shape)) for name, shape in shapes.items()]
    )
    data = synthesize(zoo, SETTINGS, seed=0)
    assert data.images.shape == (6, 3, 20, 24)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(channels: int) -> None:
    body = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 4))
    values = {"mean": [0.5] * channels, "std": [0.2] * channels}
    spec = tiny_spec("plain", input_shape=[channels, 16, 16], **values)
    data = synthesize(Zoo.load([(model, spec)]), SETTINGS, seed=0)
    assert data.images.shape == (6, channels, 16, 16)


@pytest.mark.parametrize(
    "scales", [(), (0.5,), (1.0, 0.5), (0.5, 0.5, 1.0), (0.0, 1.0), 1.0, ("1",)]
)
def test_scales_that_make_no_sense(scales: object) -> None:
    with pytest.raises(InputError, match="scales must be increasing numbers within"):
        SynthesisSettings(scales=scales)  # type: ignore[arg-type]


def test_a_part_at_a_time_gives_the_same_images_but_for_rounding() -> None:
    zoo = Zoo.load([(tiny_network("plain"), tiny_spec("plain"))])
    settings = SynthesisSettings(num_images=8, batch_size=8, iterations=4)
    plans = []
    whole = synthesize(zoo, settings, seed=0, on_plan=plans.append)
    budget = (plans[0].peak_bytes * 0.7) / 2**30
    parts = synthesize(zoo, settings, seed=0, memory_gib=budget, on_plan=plans.append)
    assert plans[1].chunk_size is not None and plans[1].peak_bytes <= budget * 2**30
    assert (parts.images - whole.images).abs().mean() < 1e-2
    assert parts.manifest["machine"]["chunk_size"] == plans[1].chunk_size
