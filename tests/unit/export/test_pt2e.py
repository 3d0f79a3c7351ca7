"""Exported programs: the same function, loadable without mixmix, integer kernels after lowering."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NETWORKS, NUM_CLASSES, tiny_network, tiny_spec
from torch import Tensor, fx, nn

from mixmix import Compressed, ImageSet, Quantize, compress, evaluate, export
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.errors import DataError, InputError
from mixmix.export.pt2e import pt2e_program
from mixmix.graph.ops import has_kind
from mixmix.graph.quantized import QuantizedActivation, QuantizedLayer
from mixmix.models.model import normalize
from mixmix.models.spec import ModelSpec
from mixmix.runtimes.program import ProgramSession

IMAGES = torch.rand(40, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % NUM_CLASSES


def quantized(family: str, bits: str) -> Compressed:
    soft = torch.full((40, NUM_CLASSES), 1 / NUM_CLASSES)
    data = ImageSet(IMAGES, LABELS, soft, {})
    method = Quantize(bits, reconstruction=ReconstructionSettings(iterations=0))
    return compress((tiny_network(family), tiny_spec(family)), data, method, seed=0)


def logits(model: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = model(images)
    return out


@pytest.mark.parametrize("family", sorted(NETWORKS))
@pytest.mark.parametrize("bits", ["W8A8", "W2A4"])
def test_program_computes_what_the_model_computes(family: str, bits: str, tmp_path: Path) -> None:
    compressed = quantized(family, bits)
    artifact = export(compressed, tmp_path / "m.pt2", format="pt2e", probe=IMAGES)
    assert artifact.format == "pt2e" and artifact.agreement >= 97
    images = normalize(IMAGES, compressed.spec)
    got = ProgramSession(artifact.path).run(images[:1])  # another batch than at export
    assert got.shape == (1, NUM_CLASSES)
    same = evaluate(artifact, (IMAGES, LABELS), reference=compressed)
    assert same.agreement is not None and same.agreement >= 97


@pytest.mark.parametrize("bits", [3, 8])
def test_values_beyond_the_levels_are_cut_off_on_both_sides(bits: int) -> None:
    zero_point = 2 ** (bits - 1) + 1
    quantizer = QuantizedActivation(torch.tensor(0.3), torch.tensor(zero_point), bits)
    layer = QuantizedLayer(
        nn.Linear(12, NUM_CLASSES), torch.ones(NUM_CLASSES, 12), torch.ones(4), 8
    )
    spec = ModelSpec("cut", "module", (3, 2, 2), (0.0,) * 3, (1.0,) * 3, NUM_CLASSES)
    model = nn.Sequential(quantizer, nn.Flatten(), layer).eval()
    program = pt2e_program(Compressed(model, spec)).module(check_guards=False)
    for value in (-100.0, 100.0, 0.6):
        x = torch.full((2, 3, 2, 2), value)
        torch.testing.assert_close(program(x), model(x))


def test_program_loads_without_mixmix(tmp_path: Path) -> None:
    compressed = quantized("plain", "W8A8")
    artifact = export(compressed, tmp_path / "m.pt2", format="pt2e")
    assert ModelSpec.from_metadata(ProgramSession(artifact.path).metadata, "it") == compressed.spec
    images = normalize(IMAGES[:3], compressed.spec)
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import sys, torch, torch.ao.quantization.fx._decomposed\n"
        f"program = torch.export.load({str(artifact.path)!r})\n"
        f"images = torch.load({str(tmp_path / 'images.pt')!r})\n"
        f"torch.save(program.module()(images), {str(tmp_path / 'logits.pt')!r})\n"
        "assert not [name for name in sys.modules if name.startswith('mixmix')]\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    got = torch.load(tmp_path / "logits.pt")
    expected = logits(compressed.module, images)
    assert (got - expected).norm() < 0.02 * expected.norm()


class Clamped(nn.Module):
    """A bound on one side, and axes that come and go before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).clamp(min=0).amax((2, 3))
        logits: Tensor = self.last(x.unsqueeze(1).squeeze(1))
        return logits


def test_clamps_are_one_and_layers_take_what_is_quantized(tmp_path: Path) -> None:
    soft = torch.full((40, NUM_CLASSES), 1 / NUM_CLASSES)
    data = ImageSet(IMAGES, LABELS, soft, {})
    method = Quantize("W8A4", reconstruction=ReconstructionSettings(iterations=0))
    torch.manual_seed(0)
    compressed = compress((Clamped().eval(), tiny_spec("plain")), data, method, seed=0)
    graph_module = pt2e_program(compressed).module(check_guards=False)
    assert isinstance(graph_module, fx.GraphModule)
    for node in graph_module.graph.nodes:
        if has_kind(node, "conv2d", "linear"):
            assert "dequantize_per_tensor" in str(node.args[0].target)
        if has_kind(node, "clamp"):
            assert not has_kind(node.args[0], "clamp")
    images = normalize(IMAGES, compressed.spec)
    torch.testing.assert_close(graph_module(images), logits(compressed.module, images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", ["W8A8", "W2A4"])
def test_compiled_program_runs_integer_kernels(bits: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    from torch._inductor import config
    from torchao.quantization.pt2e.lowering import lower_pt2e_quantized_to_x86

    compressed = quantized("plain", bits)
    artifact = export(compressed, tmp_path / "m.pt2", format="pt2e")
    images = normalize(IMAGES, compressed.spec)
    with torch.no_grad(), config.patch(freezing=True):
        program = torch.export.load(artifact.path).module()
        lowered = lower_pt2e_quantized_to_x86(program, (images,))
        kinds = Counter(str(node.target) for node in lowered.graph.nodes)
        assert (
            kinds["onednn.qconv_pointwise.default"] == 3 and not kinds["aten.convolution.default"]
        )
        got = torch.compile(lowered)(images)
    expected = logits(compressed.module, images)
    assert (got.argmax(1) == expected.argmax(1)).float().mean() >= 0.95


def test_errors(tmp_path: Path) -> None:
    plain = Compressed(tiny_network("plain"), tiny_spec("plain"))
    with pytest.raises(InputError, match="must end in .pt2"):
        export(plain, tmp_path / "m.onnx", format="pt2e")
    with pytest.raises(InputError, match="cannot optimize for 'fun'"):
        export(plain, tmp_path / "m.onnx", optimize_for="fun")
    with pytest.raises(InputError, match="no exported program at"):
        ProgramSession(tmp_path / "absent.pt2")
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not a program that torch.export.save"):
        ProgramSession(broken)
