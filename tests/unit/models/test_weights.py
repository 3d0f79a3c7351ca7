"""Checkpoints as training scripts write them."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import pathlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixmix.errors import DataError, InputError
from mixmix.models import load_model
from mixmix.models.spec import ModelSpec
from mixmix.models.weights import load_state_dict, unwrapped_state

STATE = nn.Linear(3, 2).state_dict()
EMA = {name: value + 1 for name, value in STATE.items()}


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "about",
    [
        {"args": argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("/x"))},
        {"metric": np.float64(71.2), "best": np.int64(3), "epoch": 3},
        {"hyper_parameters": {"loss": nn.CrossEntropyLoss(), "schedule": nn.ReLU()}},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"time": datetime.datetime(2026, 1, 1), "took": datetime.timedelta(1)},
        {"hyper_parameters": {"optimizer": functools.partial(torch.optim.Adam, lr=0.1)}},
        {"types": [str, bool, type(None)], "steps": range(3), "torch": torch.__version__},
    ],
)
def test_what_lies_beside_the_weights_is_data(about: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "best.pth.tar", {"state_dict": STATE, **about})
    assert load_state_dict(path).keys() == STATE.keys()


@pytest.mark.parametrize(
    ("plain", "ema"), [("state_dict", "state_dict_ema"), ("model", "model_ema")]
)
def test_of_two_networks_the_plain_one_is_loaded(plain: str, ema: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "last.pth", {ema: EMA, plain: STATE})
    with pytest.warns(UserWarning, match=f"loaded '{plain}', not .*last.pth#{ema}"):
        found = load_state_dict(path)
    assert torch.equal(found["weight"], STATE["weight"])
    assert torch.equal(load_state_dict(Path(f"{path}#{ema}"))["weight"], EMA["weight"])
    with pytest.raises(DataError, match="contains no state dict 'x', but"):
        load_state_dict(Path(f"{path}#x"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.", "module._orig_mod."])
def test_prefixes_of_wrappers(prefix: str) -> None:
    wrapped = {prefix + name: value for name, value in STATE.items()}
    assert unwrapped_state(wrapped, set(STATE)).keys() == STATE.keys()
    others = {f"teacher.{name}": value for name, value in EMA.items()}
    with pytest.warns(UserWarning, match="loaded .*, not teacher."):
        found = unwrapped_state(wrapped | others, set(STATE))
    assert torch.equal(found["weight"], STATE["weight"])


@pytest.mark.parametrize("content", [nn.Linear(2, 2), {"model": nn.Linear(2, 2), "epoch": 1}])
def test_whole_modules_are_refused_with_the_cure(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"whole pickled torch.*; load it in your own.*state_dict"):
        load_state_dict(saved(tmp_path / "m.pt", content))


def test_functions_are_refused_by_name(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return eval, ("1",)

    path = saved(tmp_path / "m.pt", {"state_dict": STATE, "x": Call()})
    with pytest.raises(DataError, match=r"refers to (__builtin__|builtins).eval, which can run"):
        load_state_dict(path)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_heads_of_training_may_be_missing(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    own = models.get_model(
        name,
        weights=None,
        num_classes=3,
        aux_logits=False,
        init_weights=False,
        transform_input=True,
    ).eval()
    path = saved(tmp_path / "w.pth", own.state_dict())
    spec = ModelSpec(
        name,
        f"torchvision:{name}",
        (3, 96, 96),
        0.5,
        0.25,
        3,
        weights=str(path),  # type: ignore[arg-type]
    )
    images = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(load_model(spec)(images), own(images))


def test_integers_are_no_weights(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.squeezenet1_1().state_dict()
    state["features.0.weight"] = state["features.0.weight"].to(torch.int8)
    path = saved(tmp_path / "w.pth", state)
    spec = ModelSpec(
        "s",
        "torchvision:squeezenet1_1",
        (3, 64, 64),
        0.5,
        0.25,
        1000,
        weights=str(path),  # type: ignore[arg-type]
    )
    with pytest.raises(InputError, match="holds torch.int8 values, expected floats"):
        load_model(spec)


@pytest.mark.parametrize("beside", [{"epoch": 3, "name": "best"}, {7: 1.5}])
def test_state_dicts_with_other_entries(beside: dict[Any, Any], tmp_path: Path) -> None:
    assert load_state_dict(saved(tmp_path / "w.pth", {**STATE, **beside})).keys() == STATE.keys()


def test_names_of_weights_are_printable(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    path = saved(tmp_path / "w.pth", {"\x1b[31ma\nb": torch.ones(1)})
    spec = ModelSpec("s", "torchvision:squeezenet1_1", (3, 64, 64), 0.5, 0.25, 1000)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unexpected .x1b.31ma b") as error:
        load_model(dataclasses.replace(spec, weights=str(path)))
    assert str(error.value).isprintable()


def written(kind: str, path: Path) -> None:
    """Files that are no checkpoints, as people pass them."""
    if kind == "torchscript":
        torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3)), path)  # type: ignore[no-untyped-call]
    elif kind == "numpy":
        with open(path, "wb") as file:
            np.savez(file, weight=np.zeros(3))
    elif kind == "arrays":
        torch.save({"weight": np.zeros(3)}, path)
    elif kind == "protocol":
        torch.save(STATE, path, pickle_protocol=4)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps({"weight": [1.0]}, protocol=4))
    elif kind == "older object":
        content = {"state_dict": STATE, "loss": nn.CrossEntropyLoss()}
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_text(kind)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torchscript", "is a TorchScript program; load it by torch.jit.load"),
        ("numpy", "contains arrays of NumPy; save tensors"),
        ("arrays", "contains arrays of NumPy under 'weight', expected tensors"),
        ("protocol", "is a pickle of another kind or protocol than torch.save writes"),
        ("plain pickle", "is a pickle of another kind or protocol than torch.save writes"),
        ("older object", "refers to torch.nn.modules.loss.CrossEntropyLoss, and its older format"),
        ("<!DOCTYPE html>", "was not written by torch.save: it begins with b'<!DO'"),
        ("version https://git-lfs", "was not written by torch.save: it begins with b'vers'"),
        ("", "was not written by torch.save: it begins with b''"),
    ],
)
def test_other_files_are_named(kind: str, message: str, tmp_path: Path) -> None:
    written(kind, tmp_path / "w.pth")
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load_state_dict(tmp_path / "w.pth")
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize(("kind", "is_zip"), [("buffer", True), ("buffer", False), ("size", False)])
def test_no_memory_is_taken_for_what_a_number_claims(
    kind: str, is_zip: bool, tmp_path: Path
) -> None:
    class Buffer:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return bytearray, (2**40,)

    path = tmp_path / "w.pth"
    content = {"weight": torch.ones(104)} | ({"x": Buffer()} if kind == "buffer" else {})
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    if kind == "size":
        claimed = path.read_bytes().replace(b"Kh", b"\x8a\x06\0\0\0\0\0\1", 1)
        path.write_bytes(claimed)
    with pytest.raises(DataError, match="bytearray" if kind == "buffer" else "is damaged, or was"):
        load_state_dict(path)
