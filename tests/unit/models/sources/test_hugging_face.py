"""Image classifiers of transformers, from folders as the hub's cache has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mixmix import Zoo, load
from mixmix.errors import DataError, InputError
from mixmix.models import load_model, load_spec
from mixmix.models.sources.hub import hub_file, hub_json, hub_weights
from mixmix.models.sources.hugging_face import HuggingFaceSource
from mixmix.runtime.storage import write_tensors

hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


class TestHub:
    def test_file_that_a_repository_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(**where: Any) -> None:
            raise hub.errors.EntryNotFoundError("404")

        monkeypatch.setattr(hub, "try_to_load_from_cache", lambda **where: None)
        monkeypatch.setattr(hub, "hf_hub_download", absent)
        assert hub_file("owner/name", "config.json") is None
        assert hub_json("owner/name", "config.json") == {}

    def test_revision_is_handed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, Any] = {}

        def cached(**where: Any) -> str:
            asked.update(where)
            return "/cache/config.json"

        monkeypatch.setattr(hub, "try_to_load_from_cache", cached)
        assert hub_file("owner/name@v2", "config.json") == Path("/cache/config.json")
        assert asked == {"repo_id": "owner/name", "filename": "config.json", "revision": "v2"}

    @pytest.mark.parametrize("name", ["a/b/c/d", ""])
    def test_no_repository(self, name: str) -> None:
        with pytest.raises(InputError, match="expected OWNER/NAME or a folder"):
            hub_file(name, "config.json")

    def test_weights_that_can_hold_code_are_not_read(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
        with pytest.raises(InputError, match=r"has no model.safetensors; other formats can hold"):
            hub_weights(str(tmp_path))

    def test_parts_are_those_of_the_index(self, tmp_path: Path) -> None:
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
        (tmp_path / "1.safetensors").write_bytes(b"")
        with pytest.raises(DataError, match="names parts"):
            hub_weights(str(tmp_path))
        (tmp_path / "2.safetensors").write_bytes(b"")
        assert [path.name for path in hub_weights(str(tmp_path))] == [
            "1.safetensors",
            "2.safetensors",
        ]


PROCESSOR = {
    "size": {"height": 40, "width": 40},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.2],
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "ant", 1: "bee", 2: "cat"},
    )
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(config).eval().save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path / "net"


class TestTransformers:
    def test_logits_and_spec(self, repository: Path) -> None:
        from transformers import AutoModelForImageClassification

        teacher = load(f"hf:{repository}")
        assert teacher.spec.name == "net"
        assert teacher.spec.input_shape == (3, 32, 32)
        assert (teacher.spec.mean, teacher.spec.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
        assert teacher.spec.classes == ("ant", "bee", "cat")
        assert len(teacher.batch_norms) > 0
        original = AutoModelForImageClassification.from_pretrained(repository).eval()
        inputs = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(teacher.module(inputs), original(inputs).logits)

    def test_own_checkpoint_with_another_head(self, repository: Path) -> None:
        transformers = pytest.importorskip("transformers")
        config = transformers.AutoConfig.from_pretrained(repository, num_labels=5, num_channels=1)
        model = transformers.AutoModelForImageClassification.from_config(config).eval()
        write_tensors(repository.parent / "w.safetensors", model.state_dict())
        spec_file = repository.parent / "x.toml"
        spec_file.write_text(
            'source = "hf:./net"\nweights = "w.safetensors"\nnum_classes = 5\n'
            "input_shape = [1, 32, 32]\nmean = [0.5]\nstd = [0.5]\n"
        )
        inputs = torch.randn(2, 1, 32, 32)
        found = load_model(load_spec(spec_file))(inputs)
        torch.testing.assert_close(found, model(inputs).logits)

    def test_pretrained_head_is_not_replaced(self, repository: Path) -> None:
        (repository.parent / "x.toml").write_text('source = "hf:./net"\nnum_classes = 5\n')
        with pytest.raises(InputError, match="have 3 classes, the spec says 5"):
            Zoo.load([repository.parent / "x.toml"])

    @pytest.mark.parametrize(
        "change", [{"rescale_factor": 1}, {"do_rescale": False}, {"image_mean": None}]
    )
    def test_unusual_preprocessing_is_asked_for(
        self, change: dict[str, Any], repository: Path
    ) -> None:
        processor = {k: v for k, v in (PROCESSOR | change).items() if v is not None}
        (repository / "preprocessor_config.json").write_text(json.dumps(processor))
        with pytest.raises(InputError, match="does not specify its mean, std"):
            load_spec(f"hf:{repository}")


def test_folder_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config.json"):
        load_spec(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("processor", "channels", "mean", "size"),
    [
        ({"image_mean": 0.5, "image_std": 0.2}, 3, (0.5,) * 3, None),
        ({"image_mean": [0.5], "image_std": [0.2]}, 3, (0.5,) * 3, None),
        ({"image_mean": None, "image_std": None}, 3, None, None),
        ({"do_normalize": False}, 1, (0.0,), None),
        ({"do_rescale": False, "image_mean": 0.5, "image_std": 0.5}, 3, None, None),
        ({"rescale_factor": None, "size": 16}, 3, None, (16, 16)),
        ({"size": {"shortest_edge": 16}}, 3, None, (16, 16)),
        (
            {"size": {"height": 8, "width": 16}, "crop_size": 4, "do_center_crop": False},
            3,
            None,
            (8, 16),
        ),
        ({"size": 16, "crop_size": {"height": 8, "width": 8}}, 3, None, (8, 8)),
        ({"size": {"max_height": 8}}, 3, None, None),
    ],
)
def test_forms_of_preprocessors(
    processor: dict[str, Any], channels: int, mean: Any, size: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_channels": channels}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    known = HuggingFaceSource().describe(str(tmp_path))
    assert known.get("mean") == mean
    assert known.get("input_shape") == (None if size is None else (channels, *size))
