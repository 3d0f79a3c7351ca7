from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_images, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import (
    FineTune,
    ModelSpec,
    Prune,
    PruneBlocks,
    PruneChannels,
    Quantize,
    ReconstructFeatures,
    TrainingSettings,
    compress,
    export,
)
from mixmix.errors import InputError
from mixmix.graph.capture import capture
from mixmix.graph.costs import count_macs
from mixmix.graph.residual import find_residual_blocks, without_blocks

QUICK = (
    ReconstructFeatures(iterations=4, views=64),
    FineTune(TrainingSettings(steps=4, batch_size=8)),
)


class Block(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        nn.init.constant_(self.body[4].weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Deep(nn.Module):
    """Blocks of which some do little."""

    def __init__(self, scales: tuple[float, ...] = (1.0, 0.01, 0.6, 0.02)) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8))
        self.blocks = nn.Sequential(*(Block(8, scale) for scale in scales))
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
        return logits


@pytest.fixture
def deep() -> tuple[nn.Module, ModelSpec]:
    torch.manual_seed(0)
    model = Deep().train()
    for _ in range(4):
        model(torch.randn(16, *INPUT_SHAPE))
    return model.eval(), tiny_spec("plain")


def test_branches_are_found_with_their_layers(deep: tuple[nn.Module, ModelSpec]) -> None:
    graph = capture(deep[0], torch.randn(2, *INPUT_SHAPE))
    blocks = find_residual_blocks(graph)
    assert [block.name for block in blocks] == [f"blocks.{index}.body" for index in range(4)]
    assert blocks[0].layers[0] == "blocks.0.body.0"


def test_without_a_branch_the_network_is_what_passes_beside_it(
    deep: tuple[nn.Module, ModelSpec],
) -> None:
    model, _ = deep
    images = torch.randn(3, *INPUT_SHAPE)
    graph = capture(model, images)
    blocks = find_residual_blocks(graph)
    assert isinstance(model, Deep)
    for chosen in ([1], [0, 1], [2, 0, 3]):
        left = nn.Sequential(*(b for i, b in enumerate(model.blocks) if i not in chosen))
        expected = model.head(left(torch.relu(model.stem(images))).mean((2, 3)))
        found = without_blocks(graph, [blocks[index] for index in chosen])(images)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(graph(images), model(images))


def test_shortcuts_that_change_their_tensor_and_shared_layers_stay() -> None:
    graph = capture(tiny_network("residual"), torch.randn(2, *INPUT_SHAPE))
    assert find_residual_blocks(graph) == []

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.same(x)
            return (x + self.same(x)).mean((2, 3))

    assert find_residual_blocks(capture(Twice(), torch.randn(2, *INPUT_SHAPE))) == []


def test_what_does_little_goes_first_and_the_budget_holds(
    deep: tuple[nn.Module, ModelSpec],
) -> None:
    before = {key: value.clone() for key, value in deep[0].state_dict().items()}
    result = compress(deep, tiny_images(), PruneBlocks(max_macs=0.6, recovery=QUICK), seed=0)
    results = result.applied[0].results
    assert results["blocks"] == ["blocks.1.body", "blocks.3.body"]
    whole = count_macs(deep[0], INPUT_SHAPE)
    assert (
        count_macs(result.module, INPUT_SHAPE) == round(results["macs_ratio"] * whole) < 0.6 * whole
    )
    records = {record.name: record for record in result.records}
    assert records["blocks.1.body.0"].action == "pruned"
    assert records["blocks.1.body.0"].reason == "residual branch blocks.1.body was removed"
    assert records["blocks.0.body.1"].reason == "its residual branch was kept"
    assert records["head"].reason == "part of no residual branch"
    for key, value in deep[0].state_dict().items():
        assert torch.equal(value, before[key])


def test_recovery_brings_it_nearer_to_the_original(deep: tuple[nn.Module, ModelSpec]) -> None:
    images = torch.rand(64, *INPUT_SHAPE, generator=torch.Generator().manual_seed(1))

    def distance(recovery: tuple[object, ...]) -> float:
        method = PruneBlocks(max_macs=0.4, recovery=recovery)  # type: ignore[arg-type]
        result = compress(deep, tiny_images(64), method, seed=0)
        return float((result.module(images) - deep[0](images)).detach().square().mean())

    assert distance((ReconstructFeatures(iterations=60),)) < 0.5 * distance(())


def test_the_same_seed_gives_the_same_network(deep: tuple[nn.Module, ModelSpec]) -> None:
    method = PruneBlocks(max_parameters=0.7, recovery=QUICK)
    one, other = (compress(deep, tiny_images(), method, seed=3).module for _ in range(2))
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "after",
    [
        PruneChannels(max_macs=0.6, round_to=1, recovery=()),
        Prune(0.5, recovery=()),
        Quantize("W8A8"),
    ],
)
def test_other_methods_go_on_and_the_file_is_smaller(
    after: object, deep: tuple[nn.Module, ModelSpec], tmp_path: Path
) -> None:
    methods = [PruneBlocks(max_macs=0.6, recovery=()), after]
    result = compress(deep, tiny_images(), methods, seed=0)  # type: ignore[arg-type]
    small = export(result, tmp_path / "small.onnx")
    from mixmix import Compressed

    assert small.size_bytes < export(Compressed(*deep), tmp_path / "whole.onnx").size_bytes


def test_max_latency_is_measured(deep: tuple[nn.Module, ModelSpec]) -> None:
    result = compress(deep, tiny_images(), PruneBlocks(max_latency=0.99, recovery=()), seed=0)
    assert 0 < result.applied[0].results["latency_ratio"] <= 0.99


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"max_macs": 0.02}, r"without any of its 4 residual branches, 0\.0\d+ of MACs"),
        ({}, "set at least one of max_macs"),
        ({"max_macs": 1.0}, "max_macs must be in .0, 1."),
        ({"max_macs": 0.5, "num_images": 1}, "num_images"),
    ],
)
def test_budgets_that_cannot_be(
    method: dict[str, float], message: str, deep: tuple[nn.Module, ModelSpec]
) -> None:
    with pytest.raises(InputError, match=message):
        compress(deep, tiny_images(), PruneBlocks(**method), seed=0)  # type: ignore[arg-type]


def test_a_network_without_branches_is_refused() -> None:
    pair = (tiny_network("plain"), tiny_spec("plain"))
    with pytest.raises(InputError, match="no residual branch .* use PruneChannels"):
        compress(pair, tiny_images(), PruneBlocks(max_macs=0.5), seed=0)
