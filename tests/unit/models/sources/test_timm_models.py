"""Models of timm: what is known of them, own checkpoints, other heads, and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mixmix import Zoo, load
from mixmix.errors import InputError
from mixmix.models import build_model, load_model, load_spec
from mixmix.runtime.storage import sha256_of_tensors, write_tensors

timm = pytest.importorskip("timm", reason="timm is not installed")
hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

NAME = "test_resnet.r160_in1k"


def weights(path: Path, **arguments: Any) -> Any:
    """A fresh network and its checkpoint."""
    model = timm.create_model("test_resnet", **arguments).eval()
    write_tensors(path, model.state_dict())
    return model


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**where: Any) -> str:
        raise hub.errors.LocalEntryNotFoundError("no connection\nat all")

    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda **where: None)
    monkeypatch.setattr(hub, "hf_hub_download", fail)


def test_what_timm_knows_becomes_the_spec() -> None:
    spec = load_spec(f"timm:{NAME}")
    assert spec.name == f"timm:{NAME}"
    assert spec.input_shape == (3, 160, 160)
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    assert (spec.num_classes, spec.label_set, spec.license) == (1000, "imagenet1k", "apache-2.0")
    assert spec.classes[0].startswith("tench")


def test_own_checkpoint_takes_the_place_of_a_download(tmp_path: Path, offline: None) -> None:
    model = weights(tmp_path / "mine.safetensors")
    teacher = load(f"timm:test_resnet@{tmp_path / 'mine.safetensors'}")
    assert teacher.spec.name == "timm:test_resnet@mine"
    assert teacher.spec.sha256 == sha256_of_tensors(model.state_dict())
    inputs = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(teacher.module(inputs), model(inputs))


def test_head_and_channels_of_a_spec_file_reach_the_constructor(tmp_path: Path) -> None:
    model = weights(tmp_path / "mine.safetensors", num_classes=7, in_chans=5)
    (tmp_path / "five.toml").write_text(
        'source = "timm:test_resnet"\nweights = "mine.safetensors"\nnum_classes = 7\n'
        "input_shape = [5, 64, 64]\nmean = [0.5, 0.5, 0.5, 0.5, 0.5]\n"
        "std = [0.2, 0.2, 0.2, 0.2, 0.2]\n"
    )
    teacher = load(tmp_path / "five.toml")
    assert (teacher.spec.name, teacher.spec.label_set) == ("five", "")
    inputs = torch.randn(2, 5, 64, 64)
    torch.testing.assert_close(teacher.module(inputs), model(inputs))


def test_normalization_of_other_channels_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "gray.toml").write_text('source = "timm:resnet18"\ninput_shape = [1, 64, 64]\n')
    with pytest.raises(
        InputError, match=r"gray.toml: timm:resnet18 does not specify its mean, std"
    ):
        load_spec(tmp_path / "gray.toml")


def test_checkpoint_with_another_head_says_both_numbers(tmp_path: Path) -> None:
    weights(tmp_path / "mine.safetensors", num_classes=7, in_chans=5)
    message = (
        r"the checkpoint has 7 classes, the spec 1000: set num_classes = 7; the checkpoint takes 5 "
        r"channels, the spec 3: set input_shape = \[5, 160, 160\]"
    )
    with pytest.raises(InputError, match=message):
        Zoo.load([f"timm:test_resnet@{tmp_path / 'mine.safetensors'}"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("num_classes = 7", "have 1000 classes, the spec says 7"),
        (
            "input_shape = [1, 160, 160]\nmean = [0.5]\nstd = [0.5]",
            "have 3 channels, the spec says 1",
        ),
    ],
)
def test_pretrained_weights_are_not_stretched(
    line: str, message: str, tmp_path: Path, offline: None
) -> None:
    (tmp_path / "x.toml").write_text(f'source = "timm:test_resnet"\n{line}\n')
    with pytest.raises(InputError, match=message):
        Zoo.load([tmp_path / "x.toml"])


def test_offline_says_what_to_do(offline: None) -> None:
    message = r"not in the cache and cannot be downloaded \(no connection\); .*local weights file"
    with pytest.raises(InputError, match=message):
        load_model(load_spec(f"timm:{NAME}"))


def test_weights_in_the_cache_are_loaded(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = weights(tmp_path / "model.safetensors")

    def cached(repo_id: str, filename: str, revision: str | None) -> str:
        assert (repo_id, revision) == (f"timm/{NAME}", None)
        return str(tmp_path / filename)

    monkeypatch.setattr(hub, "try_to_load_from_cache", cached)
    loaded = load_model(load_spec(f"timm:{NAME}"))
    assert sha256_of_tensors(loaded.state_dict()) == sha256_of_tensors(model.state_dict())


def test_hash_of_pretrained_weights_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights(tmp_path / "model.safetensors")
    monkeypatch.setattr(
        hub, "try_to_load_from_cache", lambda filename, **where: str(tmp_path / filename)
    )
    (tmp_path / "x.toml").write_text(f'source = "timm:{NAME}"\nsha256 = "{"0" * 64}"\n')
    with pytest.raises(InputError, match="the weights of timm:.* the spec says 000000000000"):
        Zoo.load([tmp_path / "x.toml"])


@pytest.mark.parametrize("reference", ["hf:{}", "timm:hf-hub:{}"])
def test_repository_in_timms_format(reference: str, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3).eval()
    labels = {"label_names": ["ant", "bee", "cat"]}
    timm.models.save_for_hf(model, str(tmp_path), model_config=labels, safe_serialization=True)
    teacher = load(reference.format(tmp_path))
    assert teacher.spec.classes == ("ant", "bee", "cat")
    assert (teacher.spec.num_classes, teacher.spec.label_set) == (3, "")
    inputs = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(teacher.module(inputs), model(inputs))


def test_vision_transformer_of_another_size(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        'source = "timm:test_vit"\ninput_shape = [3, 64, 64]\nnum_classes = 4\n'
    )
    model = build_model(load_spec(tmp_path / "x.toml")).eval()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnte18", "no model 'resnte18'; similar: resnet18"),
        ("resnet18.nonesuch", "resnet18.nonesuch is not known to timm"),
        ("resnet18@w.onnx", "no model 'resnet18@w.onnx'; similar: resnet18"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_spec(f"timm:{name}")
