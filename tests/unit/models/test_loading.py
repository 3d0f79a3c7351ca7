"""Specs and checkpoints as users have them: the good forms load, the bad ones say what is wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import NETWORKS, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import ModelSpec, Zoo
from mixmix.errors import DataError, InputError
from mixmix.models import load_model, load_spec
from mixmix.models.weights import load_state_dict
from mixmix.runtime.storage import sha256_of_tensors, write_tensors


def build_plain() -> nn.Module:
    """What a user's ``python:MODULE:CALLABLE`` names."""
    return NETWORKS["plain"]()


def build_number() -> int:
    return 3


def build_nothing() -> nn.Module:
    raise RuntimeError("out of luck")


class Payload:
    """An object whose unpickling would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.write_text, (self.target, "executed"))


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this file importable as ``user_networks``, as a user's own module is."""
    import sys
    import types

    module = types.ModuleType("user_networks")
    module.__dict__.update(plain=build_plain, number=build_number, nothing=build_nothing)
    monkeypatch.setitem(sys.modules, "user_networks", module)


@pytest.fixture
def state() -> dict[str, Tensor]:
    return tiny_network("plain").state_dict()


def spec_for(weights: Path | None, **changes: object) -> ModelSpec:
    fields = {"source": "python:user_networks:plain", "weights": weights and str(weights)}
    return tiny_spec("plain", **(fields | changes))


def same_weights(model: nn.Module, state: dict[str, Tensor]) -> bool:
    return sha256_of_tensors(model.state_dict()) == sha256_of_tensors(state)


class TestGoodForms:
    @pytest.fixture(autouse=True)
    def _importable(self, importable: None) -> None: ...

    def test_safetensors(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        write_tensors(tmp_path / "w.safetensors", state)
        model = load_model(spec_for(tmp_path / "w.safetensors"))
        assert same_weights(model, state)
        assert not model.training

    @pytest.mark.parametrize(
        "wrap",
        [
            "plain",
            "state_dict",
            "model",
            "tutorial",
            "unusual",
            "data_parallel",
            "trainer",
            "average",
        ],
    )
    @pytest.mark.filterwarnings("ignore:.*holds several networks")
    def test_torch_checkpoints(self, wrap: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
        content: dict[str, Any] = {
            "plain": state,
            "state_dict": {"state_dict": state, "epoch": 3},
            "model": {"model": state, "optimizer": {"lr": 0.1}},
            "tutorial": {"model_state_dict": state, "ema_state_dict": state, "loss": 0.1},
            "unusual": {"weights": state, "optimizer": {"state": {}, "param_groups": []}},
            "data_parallel": {f"module.{name}": value for name, value in state.items()},
            "trainer": {
                "state_dict": {f"model._orig_mod.{name}": value for name, value in state.items()}
                | {"criterion.weight": torch.ones(4)}
            },
            "average": {f"module.{name}": value for name, value in state.items()}
            | {"n_averaged": torch.tensor(3)},
        }[wrap]
        torch.save(content, tmp_path / "w.pth")
        assert same_weights(load_model(spec_for(tmp_path / "w.pth")), state)

    def test_counter_of_batches_may_be_absent(
        self, tmp_path: Path, state: dict[str, Tensor]
    ) -> None:
        kept = {name: value for name, value in state.items() if "num_batches" not in name}
        write_tensors(tmp_path / "w.safetensors", kept)
        loaded = load_model(spec_for(tmp_path / "w.safetensors")).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in kept.items())

    def test_half_precision_is_read_as_float32(
        self, tmp_path: Path, state: dict[str, Tensor]
    ) -> None:
        write_tensors(tmp_path / "w.safetensors", {k: v.half() for k, v in state.items()})
        assert load_model(spec_for(tmp_path / "w.safetensors"))[0][0].weight.dtype == torch.float32

    @pytest.mark.parametrize("suffix", ["toml", "json"])
    def test_spec_files_resolve_weights_beside_them(
        self, suffix: str, tmp_path: Path, state: dict[str, Tensor]
    ) -> None:
        write_tensors(tmp_path / "w.safetensors", state)
        text = {
            "json": json.dumps(spec_for(None).to_dict() | {"weights": "w.safetensors"}),
            "toml": 'name = "plain"\nsource = "python:user_networks:plain"\nnum_classes = 4\n'
            "input_shape = [3, 16, 16]\nmean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]\n"
            'weights = "w.safetensors"\n',
        }[suffix]
        path = tmp_path / f"spec.{suffix}"
        path.write_text(text)
        spec = load_spec(path)
        assert spec.weights == str(tmp_path / "w.safetensors")
        zoo = Zoo.load([path])
        assert zoo.names == ("plain",)
        assert zoo[0].spec.sha256 == sha256_of_tensors(state)

    def test_right_hash_is_taken(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        write_tensors(tmp_path / "w.safetensors", state)
        spec = spec_for(tmp_path / "w.safetensors", sha256=sha256_of_tensors(state))
        assert same_weights(load_model(spec), state)

    def test_spec_is_its_own_reference(self) -> None:
        spec = spec_for(None)
        assert load_spec(spec) is spec


class TestBadReferences:
    @pytest.mark.parametrize(
        "reference", ["resnet-51", "model.yaml", "weights.safetensors", "", "http://x/y.pth"]
    )
    def test_neither_name_nor_spec(self, reference: str) -> None:
        with pytest.raises(InputError, match="is not a model: expected timm:NAME, .*bundled:NAME"):
            load_spec(reference)

    @pytest.mark.parametrize("name", ["net.pth", "net.PT", "net.safetensors"])
    def test_weights_alone(self, name: str, tmp_path: Path) -> None:
        file = tmp_path / name
        file.touch()
        with pytest.raises(InputError, match=f"has weights, not .*MODULE:CALLABLE@.*{name}"):
            load_spec(file)

    def test_file_of_another_kind_is_not_its_own_correction(self, tmp_path: Path) -> None:
        file = tmp_path / "net.tflite"
        file.touch()
        with pytest.raises(InputError, match="is not a model") as caught:
            load_spec(file)
        assert "did you mean" not in str(caught.value)

    def test_unknown_bundled_name(self) -> None:
        with pytest.raises(InputError, match="no bundled network named 'lenet'"):
            load_spec("bundled:lenet")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("absent.json", None, "cannot read the model spec"),
            ("cut.json", '{"name": "x"', "cannot read the model spec"),
            ("cut.toml", "name = ", "cannot read the model spec"),
            ("list.json", "[1, 2]", "must hold a table of ModelSpec fields"),
            ("short.toml", 'name = "x"', "short.toml: a model spec also needs source"),
            ("odd.json", '{"nme": "x"}', "odd.json: unknown keys in a model spec: nme"),
        ],
    )
    def test_spec_file(self, name: str, text: str | None, message: str, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            load_spec(tmp_path / name)

    def test_spec_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match="cannot read the model spec"):
            load_spec(tmp_path / "x.json")


@pytest.mark.usefixtures("importable")
class TestBadSources:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (
                "module",
                "unknown source 'module'; expected timm:NAME, .*python:MODULE:CALLABLE",
            ),
            ("hub:resnet18", "unknown source"),
            ("python:sys:exit", "'python:sys:exit' ended the process .None.; put what a script"),
            ("python:no_such_module:f", "cannot build .*No module named 'no_such_module'"),
            ("python:user_networks:absent", "user_networks has no 'absent'"),
            ("python:user_networks", "cannot build"),
            ("python::", "cannot build"),
            ("python:user_networks:nothing", "cannot build .*out of luck"),
            ("python:user_networks:number", "returned int, not a module"),
        ],
    )
    def test_source(self, source: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_model(tiny_spec("plain", source=source))


def _drop(state: dict[str, Tensor]) -> None:
    del state["0.0.weight"]


def _add(state: dict[str, Tensor]) -> None:
    state["extra.weight"] = torch.zeros(1)


def _reshape(state: dict[str, Tensor]) -> None:
    state["0.0.weight"] = torch.zeros(8, 1, 3, 3)


def _fewer_classes(state: dict[str, Tensor]) -> None:
    for name in list(state):
        if name.endswith("2.weight") and state[name].ndim == 2:
            state[name] = state[name][:2].clone()


@pytest.mark.usefixtures("importable")
class TestBadWeights:
    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (_drop, "do not fit .*missing 0.0.weight"),
            (_add, "do not fit .*unexpected extra.weight"),
            (_reshape, r"0.0.weight has shape \(8, 1, 3, 3\), expected \(8, 3, 3, 3\)"),
            (_fewer_classes, r"has shape \(2, 16\), expected \(4, 16\)"),
        ],
    )
    def test_state_that_does_not_fit(
        self,
        damage: Callable[[dict[str, Tensor]], None],
        message: str,
        tmp_path: Path,
        state: dict[str, Tensor],
    ) -> None:
        damage(state)
        write_tensors(tmp_path / "w.safetensors", state)
        with pytest.raises(InputError, match=message):
            load_model(spec_for(tmp_path / "w.safetensors"))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_non_finite(self, value: float, tmp_path: Path, state: dict[str, Tensor]) -> None:
        state["0.1.running_var"][2] = value
        write_tensors(tmp_path / "w.safetensors", state)
        with pytest.raises(InputError, match="plain: 0.1.running_var contains NaN or infinite"):
            Zoo.load([spec_for(tmp_path / "w.safetensors")])

    def test_wrong_hash(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        write_tensors(tmp_path / "w.safetensors", state)
        with pytest.raises(InputError, match="the spec says 000000000000"):
            load_model(spec_for(tmp_path / "w.safetensors", sha256="0" * 64))

    @pytest.mark.parametrize("name", ["absent.safetensors", "absent.pth"])
    def test_absent(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=name):
            load_model(spec_for(tmp_path / name))

    @pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.h5", "w.onnx"])
    def test_not_what_the_suffix_says(self, name: str, tmp_path: Path) -> None:
        for content in (b"", b"not a checkpoint", bytes(200)):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=name):
                load_model(spec_for(tmp_path / name))

    @pytest.mark.parametrize("suffix", ["safetensors", "pth"])
    def test_truncated(self, suffix: str, tmp_path: Path, state: dict[str, Tensor]) -> None:
        path = tmp_path / f"w.{suffix}"
        if suffix == "pth":
            torch.save(state, path)
        else:
            write_tensors(path, state)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DataError, match=path.name):
            load_state_dict(path)

    @pytest.mark.parametrize("form", ["torch", "pickle"])
    def test_pickled_code_is_refused_and_not_executed(self, form: str, tmp_path: Path) -> None:
        path, target = tmp_path / "w.pth", tmp_path / "executed"
        content = {"state_dict": {"w": torch.zeros(1)}, "payload": Payload(target)}
        if form == "torch":
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content))
        with pytest.raises(
            DataError, match="which can run code|pickle of another kind or protocol"
        ):
            load_state_dict(path)
        assert not target.exists()

    def test_whole_pickled_module_is_refused(self, tmp_path: Path) -> None:
        torch.save(tiny_network("plain"), tmp_path / "w.pth")
        with pytest.raises(DataError, match="whole pickled mixmix.*, whose code is not run"):
            load_state_dict(tmp_path / "w.pth")

    def test_checkpoint_with_several_state_dicts(
        self, tmp_path: Path, state: dict[str, Tensor]
    ) -> None:
        torch.save({"generator": state, "critic": state}, tmp_path / "w.pth")
        with pytest.raises(DataError, match=r"several state dicts: generator, critic; write"):
            load_state_dict(tmp_path / "w.pth")

    @pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {0: torch.zeros(1)}, torch.zeros(2)])
    def test_checkpoint_without_state_dict(self, content: object, tmp_path: Path) -> None:
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(DataError, match="contains no state dict"):
            load_state_dict(tmp_path / "w.pth")
