"""What public objects say of themselves: on one screen, with what a person asks first."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_networks import NUM_CLASSES, tiny_network, tiny_spec, tiny_teacher
from torch import nn

from mixmix import (
    Artifact,
    Compressed,
    Estimate,
    Evaluation,
    ImageSet,
    LayerRecord,
    ModelSpec,
    SensitivityTable,
    Sparsity,
    Zoo,
    sparsity_of,
)
from mixmix._display import format_value, html_table, percent, shorten, summary
from mixmix.compress.method import AppliedMethod
from mixmix.compress.quantize.sensitivity_table import LayerSensitivity
from mixmix.graph.quantized import QuantizedLayer


def images(channels: int = 3) -> ImageSet:
    labels = torch.arange(8) % NUM_CLASSES
    soft = torch.eye(NUM_CLASSES)[(labels + (torch.arange(8) < 2)) % NUM_CLASSES]
    pixels = torch.rand(8, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, labels, soft, {"models": [{"name": "a"}, {"name": "b"}]})


def table(num_layers: int = 3) -> SensitivityTable:
    layers = tuple(
        LayerSensitivity(f"layer<{i}>", 100, 1000, i, {"W4A4": 0.002, "W8A8": 0.0})
        for i in range(num_layers)
    )
    return SensitivityTable("net", layers, 400, 10, 128, 0)


def compressed() -> Compressed:
    records = (
        LayerRecord("stem", "Conv2d", "quantized", weight_bits=8, num_parameters=100),
        LayerRecord("<b>", "Linear", "skipped", reason="asked for"),
    )
    applied = (AppliedMethod({"method": "quantize"}),)
    return Compressed(tiny_network("plain"), tiny_spec("plain"), records, applied)


EVALUATION = Evaluation(90.0, (88.0, 92.0), 1000, 99.0, (98.0, 99.5), torch.arange(1000))
ESTIMATE = Estimate(97.0, (95.0, 98.0), 0.5, (0.1, 1.2), 64, 1.1)


class TestTexts:
    def test_model(self) -> None:
        text = repr(tiny_teacher("plain"))
        assert re.match(r"Model\(", text)
        for part in ("name=plain", "source=module", "(3, 16, 16)", "classes=4", "batch_norms=3"):
            assert part in text
        count = sum(p.numel() for p in tiny_network("plain").parameters())
        assert f"parameters={count:,}" in text

    def test_spec_with_a_thousand_classes(self) -> None:
        classes = tuple(f"class {i}" for i in range(1000))
        spec = ModelSpec("net", "timm:net", (3, 8, 8), 0.5, 0.25, 1000, classes=classes)  # type: ignore[arg-type]
        assert "('class 0', 'class 1', 'class 2', 'class 3', ... 996 more)" in repr(spec)

    def test_integers_of_quantized_layers_are_parameters(self) -> None:
        layer = nn.Linear(6, 4)
        quantized = QuantizedLayer(layer, torch.ones_like(layer.weight), torch.ones(4), 8)
        shown = [repr(Compressed(each, tiny_spec("plain"))) for each in (layer, quantized)]
        assert all("parameters=28" in text for text in shown)

    def test_zoo(self, zoo: Zoo) -> None:
        assert repr(zoo) == (
            "Zoo(networks=(plain, residual, depthwise), input_shape=(3, 16, 16), classes=4, "
            "device=cpu)"
        )

    def test_images(self) -> None:
        assert repr(images()) == (
            "ImageSet(images=8, shape=(3, 16, 16), classes=4, from=(a, b), label_agreement=75.0%)"
        )

    def test_results(self) -> None:
        assert repr(EVALUATION) == (
            "Evaluation(top1=90.0% (88.0-92.0), agreement=99.0% (98.0-99.5), images=1,000)"
        )
        assert repr(ESTIMATE) == (
            "Estimate(\n  predicted_drop=0.5 points (0.1-1.2),\n  at most=1.1 points,\n"
            "  agreement=97.0% (95.0-98.0),\n  images=64,\n)"
        )
        artifact = Artifact(Path("x.onnx"), "onnx", tiny_spec("plain"), 12345, 99.0, 0.01, "0" * 64)
        for part in ("path=x.onnx", "size_bytes=12,345", "agreement=99.0%", "logit_error=0.01"):
            assert part in repr(artifact)
        assert repr(table()) == (
            "SensitivityTable(model=net, layers=3, choices=(W4A4, W8A8), images=128)"
        )

    def test_compressed(self) -> None:
        text = repr(compressed())
        assert "model=plain" in text and "methods=(quantize)" in text
        assert "layers=1 quantized, 1 skipped" in text

    def test_sparsity(self) -> None:
        module = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
        with torch.no_grad():
            module[1].weight.zero_()
        assert repr(sparsity_of(module)) == "Sparsity(total=33.3%, layers=2, highest=1 100.0%)"
        assert repr(Sparsity(0.0, {})) == "Sparsity(total=0.0%, layers=0)"

    @pytest.mark.parametrize(
        "value", [table(500), images(), compressed(), EVALUATION, ESTIMATE, Sparsity(0.1, {})]
    )
    def test_all_fit_a_screen(self, value: object) -> None:
        lines = repr(value).splitlines()
        assert len(lines) <= 20 and max(map(len, lines)) <= 210


class TestNotebooks:
    def test_images_show_a_contact_sheet(self) -> None:
        content = images()._repr_html_()
        found = re.search(r'src="data:image/png;base64,([^"]+)"', content)
        assert found is not None
        with Image.open(io.BytesIO(base64.b64decode(found[1]))) as sheet:
            assert sheet.format == "PNG" and min(sheet.size) > 16
        assert "ImageSet(images=8" in content

    def test_images_that_are_no_pictures_are_described(self) -> None:
        assert "<img" not in images(channels=2)._repr_html_()

    def test_tables(self, zoo: Zoo) -> None:
        assert "<td>residual</td>" in zoo._repr_html_()
        assert "90.0% (88.0-92.0)" in EVALUATION._repr_html_()
        assert "0.5 points" in ESTIMATE._repr_html_()
        assert "<td>2</td>" in table()._repr_html_()
        assert "<td>layer</td>" not in table()._repr_html_()
        assert "25.0%" in Sparsity(0.25, {"a": 0.25})._repr_html_()

    def test_what_users_named_is_escaped(self) -> None:
        assert "layer&lt;0&gt;" in table()._repr_html_()
        content = compressed()._repr_html_()
        assert "&lt;b&gt;" in content and "<b>" not in content

    def test_long_tables_are_cut(self) -> None:
        assert "... 440 more" in table(500)._repr_html_()


class TestPieces:
    def test_values(self) -> None:
        assert format_value(1234567) == "1,234,567"
        assert format_value(0.123456) == "0.1235"
        assert format_value(True) == "True"
        assert format_value(("a", 2)) == "(a, 2)"
        assert format_value(tuple(range(9))) == "(0, 1, 2, 3, ... 5 more)"
        assert percent(50.0) == "50.0%" and percent(50.0, (40.0, 60.0)) == "50.0% (40.0-60.0)"

    def test_long_text_is_cut_in_the_middle(self) -> None:
        assert shorten("a b\nc") == "a b c"
        assert len(shorten("x" * 500)) <= 200 and "..." in shorten("x" * 500)

    def test_a_summary_of_many_facts_has_a_line_for_each(self) -> None:
        assert summary("X", {"a": 1, "b": None, "c": ""}) == "X(a=1)"
        long = summary("X", {"a": "y" * 60, "b": "z" * 60})
        assert long.splitlines() == ["X(", f"  a={'y' * 60},", f"  b={'z' * 60},", ")"]

    def test_an_empty_table(self) -> None:
        assert html_table([], caption="<none>").startswith("<table><caption>&lt;none&gt;")


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\x07b", "a\u202eb"])
def test_names_from_files_do_not_reach_the_terminal_as_they_are(name: str) -> None:
    for text in (summary("Model", {"name": name}), format_value((name,)), shorten(name)):
        assert text.isprintable() and name not in text
