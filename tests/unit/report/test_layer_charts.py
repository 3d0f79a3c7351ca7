"""Charts of the layers on the page of a run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mixmix.report.layer_charts import bits_svg, errors_svg
from mixmix.report.run_page import write_run_page


def record(name: str, bits: int | None, error: float | None = 0.01) -> dict[str, Any]:
    return {"name": name, "weight_bits": bits, "activation_bits": bits, "error": error}


def layer(name: str, **changes: Any) -> dict[str, Any]:
    plain = {"name": name, "weight_bits": 4, "activation_bits": 4, "weight_snr_db": None}
    plain |= {"snr_db": 20.0, "alone_snr_db": None, "bins": [-1.0, 2.0]}
    return plain | {"counts": [1, 5, 2], "own_counts": [2, 4, 2]} | changes


def errors(layers: list[dict[str, Any]], costly: list[str]) -> dict[str, Any]:
    return {"layers": layers, "costly": costly, "advice": ["more bits"], "unmatched": []}


def test_bits_of_quantized_layers() -> None:
    svg = bits_svg([record("a$1", 4), record("b", None), record("<c>", 8, 0.0), record("d", 2)])
    assert svg is not None and "a$1" in svg and "&lt;c&gt;" in svg and ">b<" not in svg
    assert "signal to noise" in svg and "nan" not in svg.lower()
    plain = bits_svg([record("a", 4, None)])
    assert plain is not None and "signal to noise" not in plain
    assert bits_svg([record("a", None)]) is None


def test_histograms_are_those_of_the_layers_that_cost_most() -> None:
    layers = [layer(f"layer{i}", snr_db=30.0 - i, alone_snr_db=i or None) for i in range(50)]
    layers[49]["counts"] = []  # as of layers that were not run
    found = re.findall(r"layer\d+", errors_svg(errors(layers, ["layer3", "layer1"])))
    assert found == ["layer3", "layer1", "layer48", "layer47", "layer46", "layer45"]
    constant = layer("one", bins=[0.0, 0.0])
    assert "nan" not in errors_svg(errors([constant], [])).lower()


def test_drawings_on_a_page_have_ids_of_their_own(tmp_path: Path) -> None:
    facts = {
        "export": {"layers": [record("a", 4) | {"action": "quantized", "sparsity": None}]},
        "layers": {"layer_errors": errors([layer("a")], ["a"])},
    }
    page = write_run_page(tmp_path / "p.html", facts, command="c", images=None, compressed=None)
    html = page.read_text()
    ids = re.findall(r'\sid="(.*?)"', html)
    assert html.count("<svg") == 2 and len(ids) == len(set(ids))
    assert {each[1:] for each in re.findall(r'href="(#.*?)"', html)} <= set(ids)
    assert "Layers compared" in html and "more bits" in html


def test_the_summary_of_a_page_is_in_sentences(tmp_path: Path) -> None:
    layers = [record("a", 4) | {"action": "quantized", "sparsity": None}]
    export = {
        "model": "net",
        "teacher": "net",
        "setting": "W4A4" + " with a long name" * 4,
        "sparsity": 0.2,  # of weights that were rounded to zero
        "size_bytes": 1000,
        "macs": 10,
        "latency_ms": None,
        "before": {"size_bytes": 4000, "macs": 10, "latency_ms": None},
        "layers": layers,
    }
    path = tmp_path / "p.html"
    write_run_page(path, {"export": export}, command="c", images=None, compressed=None)
    html = path.read_text()
    assert "Got: W4A4 in 1 layer. Size: 4 kB -&gt; 1 kB (0.25x). MACs: 10 mult" in html
    assert "long name. " in html and "Top-1 was not measured" in html and "Sparsity" not in html
