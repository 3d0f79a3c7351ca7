"""The budget of memory: what does not fit is in files, with the same result, and none is left."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec

from mixmix import ImageSet, Quantize, compress
from mixmix.compress import activation_store
from mixmix.compress.activation_store import (
    ActivationStore,
    default_memory_gib,
    images_at_a_time,
)
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import InputError
from mixmix.graph.capture import capture

CPU = torch.device("cpu")
TINY_GIB = 1e-6


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def mapped_files(folder: Path) -> int:
    """Mappings of this process of files in the folder, deleted or not."""
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells its mappings")
def test_large_tensors_are_mapped_and_released(folder: Path) -> None:
    with ActivationStore(1.0, batch_size=4, device=CPU) as store:
        store.run(lambda x: x + 1, torch.rand(10, 3, 8, 8))
        assert mapped_files(folder) == 0
    with ActivationStore(TINY_GIB, batch_size=4, device=CPU) as store:
        kept = store.run(lambda x: x + 1, torch.rand(10, 3, 8, 8))
        assert mapped_files(folder) == 1
        del kept
        assert mapped_files(folder) == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(10, 3, 8, 8), (10, 1, 8, 8), (10, 3, 1, 1)])
@pytest.mark.parametrize("memory_gib", [1.0, TINY_GIB])
def test_values_and_layout_are_those_of_one_pass(
    shape: tuple[int, ...], layout: torch.memory_format, memory_gib: float
) -> None:
    inputs = torch.rand(shape).contiguous(memory_format=layout)
    with ActivationStore(memory_gib, batch_size=4, device=CPU) as store:
        outputs = store.run(torch.exp, inputs)
        assert torch.equal(outputs, inputs.exp())
        assert outputs.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("family", ["depthwise", "residual"])
def test_files_give_the_same_bits_as_memory(family: str, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = ImageSet(
        torch.rand(20, *INPUT_SHAPE, generator=generator),
        torch.arange(20) % NUM_CLASSES,
        torch.full((20, NUM_CLASSES), 1 / NUM_CLASSES),
        {},
    )
    settings = ReconstructionSettings(iterations=5, batch_size=8)
    states, records = [], []
    for memory_gib in (None, TINY_GIB):
        method = Quantize("W3A3", memory_gib=memory_gib, reconstruction=settings)
        compressed = compress((tiny_network(family), tiny_spec(family)), data, method, seed=0)
        states.append(compressed.module.state_dict())
        records.append(compressed.records)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert records[0] == records[1]
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_one_clear_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, num_bytes: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(activation_store, "_reserve", full)
    message = rf"0.00 GiB of activations.*nor into {folder}: No space left.*Set TMPDIR"
    with (
        pytest.raises(InputError, match=message),
        ActivationStore(TINY_GIB, batch_size=4, device=CPU) as store,
    ):
        store.run(torch.exp, torch.rand(10, 3, 8, 8))
    assert list(folder.iterdir()) == []


def test_room_is_reserved_where_the_system_cannot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    inputs = torch.rand(10, 3, 8, 8)
    with ActivationStore(TINY_GIB, batch_size=4, device=CPU) as store:
        assert torch.equal(store.run(torch.neg, inputs), -inputs)


def test_larger_activations_go_in_smaller_batches() -> None:
    graph_module = capture(tiny_network("plain"), torch.rand(2, *INPUT_SHAPE))
    assert images_at_a_time(graph_module, torch.rand(2, *INPUT_SHAPE)) == 128
    # Eight channels of the stem at 224 x 224.
    assert images_at_a_time(graph_module, torch.rand(1, 3, 224, 224)) == 2**23 // (8 * 224 * 224)


@pytest.mark.parametrize("memory_gib", [0, -1.0])
def test_a_budget_is_positive(memory_gib: float) -> None:
    with pytest.raises(InputError, match="memory_gib must be a finite number > 0 or None"):
        Quantize(memory_gib=memory_gib)
    assert default_memory_gib(CPU) > 0
