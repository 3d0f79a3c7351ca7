from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mixmix import load
from mixmix.demo import bundled
from mixmix.demo.architectures import ARCHITECTURES, build_architecture
from mixmix.demo.bundled import bundled_members, bundled_names
from mixmix.errors import DataError, InputError
from mixmix.models import load_model, load_spec
from mixmix.runtime.storage import write_tensors

CLASSES = ["a", "b", "c"]


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of bundled networks of its own, with one VGG stored in half precision."""
    monkeypatch.setattr(bundled, "_folder", lambda: tmp_path)
    bundled.bundled_metadata.cache_clear()
    state = build_architecture("vgg", num_classes=3).state_dict()
    stored = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    metadata = {
        "architecture": "vgg",
        "input_shape": "[3, 32, 32]",
        "mean": "[0.5, 0.5, 0.5]",
        "std": "[0.2, 0.2, 0.2]",
        "label_set": "three",
        "classes": json.dumps(CLASSES),
        "top1": "91.50",
        "license": "Apache-2.0",
        "weights_sha256": bundled._sha256(stored),
    }
    write_tensors(tmp_path / "vgg.safetensors", stored, metadata)
    yield tmp_path
    bundled.bundled_metadata.cache_clear()


def test_spec_and_weights_come_from_the_file(assets: Path) -> None:
    assert bundled_names() == ("vgg",)
    assert bundled_members() == ("vgg",)
    spec = load_spec("bundled:vgg")
    assert (spec.num_classes, spec.classes, spec.top1) == (3, tuple(CLASSES), 91.5)
    model = load_model(spec)
    assert not model.training
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert replace(load("bundled:vgg").spec, sha256="") == spec


def test_images_are_made_from_networks_with_statistics() -> None:
    for name in bundled_names():
        has_statistics = bool(load(f"bundled:{name}").batch_norms)
        assert (name in bundled_members()) == has_statistics


def test_unknown_name_lists_the_known_ones(assets: Path) -> None:
    with pytest.raises(InputError, match="no bundled network named 'lenet'; bundled: vgg"):
        load_spec("bundled:lenet")


def test_truncated_file_is_named(assets: Path) -> None:
    path = assets / "vgg.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match=r"vgg\.safetensors is damaged"):
        load_spec("bundled:vgg")


def test_changed_weights_are_noticed(assets: Path) -> None:
    spec = load_spec("bundled:vgg")
    path = assets / "vgg.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"vgg\.safetensors is damaged or was edited"):
        load_model(spec)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_shipped_networks(name: str) -> None:
    if name not in bundled_names():
        pytest.skip(f"the weights of bundled:{name} are not in this checkout")
    teacher = load(f"bundled:{name}")
    assert teacher.spec.label_set == "cifar10" and len(teacher.spec.classes) == 10
    assert teacher.spec.top1 is not None and teacher.spec.top1 > 75
    assert any(isinstance(module, nn.Conv2d) for module in teacher.module.modules())
