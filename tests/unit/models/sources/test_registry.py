"""How models are named, and how a spec is completed from what a source knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixmix.errors import InputError
from mixmix.models import load_spec
from mixmix.models.sources import complete, find_source, split_reference


@pytest.mark.parametrize(
    ("text", "source", "weights"),
    [
        ("timm:resnet18", "timm:resnet18", None),
        ("timm:resnet18@w.safetensors", "timm:resnet18", "w.safetensors"),
        ("hf:owner/name@main", "hf:owner/name@main", None),
        ("hf:owner/name@main@w.safetensors", "hf:owner/name@main", "w.safetensors"),
        ("model.onnx", "model.onnx", None),
        ("folder/model.pt2", "folder/model.pt2", None),
    ],
)
def test_weights_are_told_by_their_suffix(text: str, source: str, weights: str | None) -> None:
    assert split_reference(text) == (source, weights)
    assert find_source(source) is not None


@pytest.mark.parametrize("text", ["resnet", "x.toml", "http://x/y"])
def test_other_references_are_left_to_others(text: str) -> None:
    assert find_source(text) is None


class TestComplete:
    """Of a network that needs no package to be described."""

    SOURCE = "imagenet:efficientnet_lite1"

    def complete(self, **given: Any) -> Any:
        return complete({"source": self.SOURCE} | given)

    def test_what_is_not_given_comes_from_the_source(self) -> None:
        spec = self.complete()
        assert spec.name == "efficientnet_lite1"
        assert spec.input_shape == (3, 240, 240)
        assert spec.mean == (0.5, 0.5, 0.5)
        assert (spec.num_classes, spec.label_set, spec.license) == (
            1000,
            "imagenet1k",
            "Apache-2.0",
        )

    def test_what_is_given_counts(self) -> None:
        spec = self.complete(name="mine", std=[0.2, 0.2, 0.2], input_shape=[3, 160, 160])
        assert (spec.name, spec.std, spec.input_shape) == ("mine", (0.2,) * 3, (3, 160, 160))

    def test_another_head_has_other_classes(self) -> None:
        spec = self.complete(num_classes=7, weights="w.safetensors")
        assert (spec.num_classes, spec.label_set, spec.classes) == (7, "", ())

    def test_a_license_is_that_of_the_weights(self) -> None:
        assert self.complete(weights="w.safetensors").license == ""

    @pytest.mark.parametrize(
        "given", [{"mean": "half"}, {"weights": 5}, {"input_shape": 3}, {"num_classes": "7"}]
    )
    def test_malformed_fields_are_input_errors(self, given: dict[str, Any]) -> None:
        with pytest.raises(InputError):
            self.complete(**given)

    def test_unknown_keys_are_named(self) -> None:
        with pytest.raises(InputError, match="unknown keys in a model spec: classnames"):
            self.complete(classnames=["a"])


def test_spec_file_needs_only_its_source(tmp_path: Path) -> None:
    path = tmp_path / "lite.json"
    path.write_text('{"source": "imagenet:efficientnet_lite0", "weights": "w.safetensors"}')
    spec = load_spec(path)
    assert spec.weights == str(tmp_path / "w.safetensors")
    assert spec.input_shape == (3, 224, 224)


def test_graphs_in_spec_files_lie_beside_them(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('source = "model.onnx"\n')
    with pytest.raises(InputError, match=f"no ONNX file at {tmp_path}/model.onnx"):
        load_spec(tmp_path / "x.toml")
