"""Files of pruned networks: small, exact, and refused where zeros are broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_networks import NETWORKS, tiny_network, tiny_spec
from tiny_networks import tiny_images as images

from mixmix import Compressed, Method, Prune, Quantize, compress, export, load_sparse
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import DataError, ExportError, InputError

families = pytest.mark.parametrize("family", sorted(NETWORKS))
QUANTIZE = Quantize("W4A8", symmetric_weights=False, first_last_bits=4)


def pruned(family: str, *methods: Method) -> Compressed:
    return compress((tiny_network(family), tiny_spec(family)), images(), methods, seed=0)


@families
@pytest.mark.parametrize("sparsity", [0.5, 0.97])
def test_reloaded_weights_are_the_same_bits(family: str, sparsity: float, tmp_path: Path) -> None:
    compressed = pruned(family, Prune(sparsity, recovery=()))
    artifact = export(compressed, tmp_path / "net.safetensors", format="sparse")
    assert artifact.size_bytes == artifact.path.stat().st_size
    state, wanted = load_sparse(artifact.path), compressed.module.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    tiny_network(family).load_state_dict(state)


def test_quantized_weights_are_stored_without_their_zeros(tmp_path: Path) -> None:
    fast = replace(QUANTIZE, reconstruction=ReconstructionSettings(iterations=0))
    compressed = pruned("residual", Prune(pattern="2:4", recovery=()), fast)
    artifact = export(compressed, tmp_path / "net.safetensors", format="sparse")
    state = load_sparse(artifact.path)
    for name, tensor in compressed.module.state_dict().items():
        assert torch.equal(state[name], tensor)


def test_the_more_zeros_the_smaller_the_file(tmp_path: Path) -> None:
    paths = []
    for sparsity in (0.3, 0.6, 0.9, 0.98):
        compressed = pruned("concat", Prune(sparsity, recovery=()))
        path = tmp_path / f"{sparsity}.safetensors"
        paths.append(export(compressed, path, format="sparse").size_bytes)
    assert paths == sorted(paths, reverse=True)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_runtimes_take_pruned_floats(suffix: str, tmp_path: Path) -> None:
    compressed = pruned("residual", Prune(pattern="2:4", recovery=()))
    kind = {"onnx": "onnx", "pt2": "pt2e"}[suffix]
    artifact = export(compressed, tmp_path / f"net.{suffix}", format=kind)
    assert artifact.agreement >= 98


def test_broken_zeros_are_not_exported(tmp_path: Path) -> None:
    compressed = pruned("plain", Prune(pattern="2:4", recovery=()))
    name, kept = next(iter(compressed.masks.items()))
    with torch.no_grad():
        compressed.module.get_parameter(name)[~kept] = 1e-9
    path = tmp_path / "net.safetensors"
    with pytest.raises(ExportError, match="pruned weights of .* are not zero"):
        export(compressed, path, format="sparse")
    everything = {name: torch.ones_like(mask) for name, mask in compressed.masks.items()}
    with pytest.raises(ExportError, match="more than 2 weights in a group of 4"):
        export(replace(compressed, masks=everything), path, format="sparse")
    assert not path.exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    compressed = pruned("plain", Prune(0.5, recovery=()))
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        export(compressed, tmp_path / "net.bin", format="sparse")
    plain = tmp_path / "plain.safetensors"
    save_file({"x": torch.zeros(3)}, plain)
    with pytest.raises(DataError, match="expected 'mixmix-sparse/1'"):
        load_sparse(plain)
    plain.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="not a safetensors file"):
        load_sparse(plain)
    with pytest.raises(DataError, match="cannot read"):
        load_sparse(tmp_path / "absent.safetensors")
