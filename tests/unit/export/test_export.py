"""Which format is written, and what is refused."""

import importlib
from pathlib import Path

import pytest
from tiny_networks import tiny_network, tiny_spec

from mixmix.compress.method import Compressed
from mixmix.errors import ExportError, InputError
from mixmix.export import export


@pytest.fixture
def plain() -> Compressed:
    return Compressed(tiny_network("plain"), tiny_spec("plain"))


@pytest.mark.parametrize(
    ("suffix", "format"), [(".onnx", "onnx"), (".pt2", "pt2e"), (".safetensors", "sparse")]
)
def test_the_suffix_says_the_format(
    plain: Compressed, suffix: str, format: str, tmp_path: Path
) -> None:
    artifact = export(plain, tmp_path / f"m{suffix}")
    assert artifact.format == format and artifact.agreement == 100


def test_other_suffixes_need_a_format(plain: Compressed, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot infer the format from .*m\.bin"):
        export(plain, tmp_path / "m.bin")
    assert export(plain, tmp_path / "m.bin", format="onnx").format == "onnx"


def test_files_that_cannot_be_loaded_are_not_written(
    plain: Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("mixmix.export.export")
    monkeypatch.setattr(module, "sparse_bytes", lambda _: b"no file")
    with pytest.raises(ExportError, match="the exported file of .* cannot be loaded"):
        export(plain, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []
