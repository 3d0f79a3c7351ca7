"""Searches on a bundled network: files within limits, and what cannot be met."""

from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_teacher

from mixmix import Quantize, load, load_evaluation_pack
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.data.images import as_image_set
from mixmix.errors import InputError
from mixmix.search import Limits, search

BASE = Quantize("W8A4", views=0, reconstruction=ReconstructionSettings(iterations=0))


def test_the_file_has_the_size_that_is_asked(tmp_path: Path) -> None:
    model = load("bundled:resnet")
    images = as_image_set(load_evaluation_pack().tensors[0][:40], model)
    out = tmp_path / "small.onnx"
    result = search(model, images, None, Limits(max_size="200kB"), out, base=BASE)
    assert 180_000 < out.stat().st_size <= 200_000
    bits = result.compressed.settings[-1]["layer_bits"]
    assert {each[2:] for name, each in list(bits.items())[1:-1]} == {"A4"}
    with pytest.raises(InputError, match="does not fit into 50,000 bytes"):
        search(model, images, None, Limits(max_size="50kB"), out, base=BASE)


def test_a_loss_needs_held_out_images_and_an_onnx_file(tmp_path: Path) -> None:
    model = load("bundled:resnet")
    images = as_image_set(load_evaluation_pack().tensors[0][:40], model)
    with pytest.raises(InputError, match="held-out"):
        search(model, images, None, Limits(max_loss=1.0), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=".onnx"):
        search(model, images, None, Limits(max_size="0.2"), tmp_path / "a.pt2")


def test_the_smallest_file_with_half_of_the_loss_is_pruned(tmp_path: Path) -> None:
    model = tiny_teacher("plain")
    images = torch.rand(48, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    seen, held_out = as_image_set(images, model).split(32)
    result = search(model, seen, held_out, Limits(max_loss=100.0), tmp_path / "a.onnx", base=BASE)
    *others, last = result.path
    assert [step.setting for step in others] == ["W8A4", "W4A4", "W2A4"]
    smallest = min(others, key=lambda step: step.size_bytes)
    assert last.setting == f"70% of the MACs, {smallest.setting}"
    assert result.chosen == min(result.path, key=lambda step: step.size_bytes)
    assert (tmp_path / "a.onnx").stat().st_size == result.chosen.size_bytes
