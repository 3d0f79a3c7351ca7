"""Classifiers of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch

from mixmix.errors import InputError
from mixmix.models import build_model, load_model, load_spec
from mixmix.runtime.storage import sha256_of_tensors, write_tensors

torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
models = torchvision.models


def test_what_the_weights_say_becomes_the_spec() -> None:
    spec = load_spec("torchvision:inception_v3")
    assert spec.input_shape == (3, 299, 299)
    assert spec.mean == (0.485, 0.456, 0.406)
    assert (spec.num_classes, spec.label_set) == (1000, "imagenet1k")
    assert (spec.classes[0], spec.classes[-1]) == ("tench", "toilet tissue")


def test_own_checkpoint_with_another_head(tmp_path: Path) -> None:
    model = models.mobilenet_v3_small(num_classes=5).eval()
    write_tensors(tmp_path / "w.safetensors", model.state_dict())
    (tmp_path / "x.toml").write_text(
        'source = "torchvision:mobilenet_v3_small"\nweights = "w.safetensors"\nnum_classes = 5\n'
        "input_shape = [3, 64, 64]\n"
    )
    spec = load_spec(tmp_path / "x.toml")
    inputs = torch.randn(2, *spec.input_shape)
    torch.testing.assert_close(load_model(spec)(inputs), model(inputs))
    with pytest.raises(InputError, match="has 5 classes, the spec 1000: set num_classes = 5"):
        load_model(load_spec(f"torchvision:mobilenet_v3_small@{tmp_path / 'w.safetensors'}"))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "densenet121"])
def test_pretrained_weights_are_read_without_pickle(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.get_model(name).eval()
    state = model.state_dict()
    asked: dict[str, Any] = {}

    def download(self: Any, **how: Any) -> dict[str, Any]:
        asked.update(how)
        # As old checkpoints of DenseNet name their layers.
        return {
            key.replace("norm1.", "norm.1.").replace("conv1.", "conv.1.")
            if "denselayer" in key
            else key: value
            for key, value in state.items()
        }

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", download)
    loaded = load_model(load_spec(f"torchvision:{name}"))
    assert asked["weights_only"] and asked["check_hash"]
    assert sha256_of_tensors(loaded.state_dict()) == sha256_of_tensors(state)


def test_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, **how: Any) -> None:
        raise URLError("no connection")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fail)
    with pytest.raises(InputError, match="cannot be downloaded: .*torchvision:resnet18@FILE"):
        load_model(load_spec("torchvision:resnet18"))


def test_other_channels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        'source = "torchvision:resnet18"\ninput_shape = [1, 64, 64]\nmean = [0.5]\nstd = [0.5]\n'
    )
    with pytest.raises(InputError, match="take 3 channels, the spec says 1; use timm:NAME"):
        build_model(load_spec(tmp_path / "x.toml"))


@pytest.mark.parametrize("name", ["resnet19", "fcn_resnet50", ""])
def test_unknown_names(name: str) -> None:
    with pytest.raises(InputError, match="has no classifier"):
        load_spec(f"torchvision:{name}")
