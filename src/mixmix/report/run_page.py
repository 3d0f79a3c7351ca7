"""The page on a run of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixmix.compress.method import Compressed
from mixmix.data.image_set import ImageSet
from mixmix.report.layer_charts import bits_svg, errors_svg
from mixmix.report.layers import error_row
from mixmix.report.page import PageSection, ReportRun, write_page
from mixmix.report.search import search_rows, sweep_rows, sweep_svg
from mixmix.report.summary import summary_rows

__all__ = ["write_run_page"]


def write_run_page(
    path: Path,
    facts: Mapping[str, Mapping[str, Any]],
    *,
    command: str,
    images: ImageSet | None,
    compressed: Compressed | None,
) -> Path:
    """Write what a run did and what came of it.

    Args:
        path: of the page.
        facts: of the run, by section.
        command: that started the run.
        images: of the run, if there are any.
        compressed: the network of the run, if there is one.
    """
    export = facts.get("export", {})
    setting = export.get("setting", "float")
    name = export.get("model") or "Synthetic images"
    if "sweep" in facts:
        name = f"{facts['sweep']['model']}: settings compared"
    sheet = facts.get("images", {}).get("contact_sheet")
    return write_page(
        path,
        ReportRun(
            title=f"{name}, {setting}" if export.get("model") else name,
            summary=" ".join(_sentences(facts)),
            rows=_rows(export, facts.get("evaluation", {}), images),
            command=command,
            manifest={} if images is None else images.manifest,
            contact_sheet=None if sheet is None else Path(sheet),
            records={} if compressed is None else {setting: compressed.records},
            sections=_sections(facts),
        ),
    )


def _sections(facts: Mapping[str, Mapping[str, Any]]) -> list[PageSection]:
    """What a search and a sweep have tried, and bits and errors of the layers."""
    sections = []
    if rows := search_rows(facts.get("export", {})):
        note = "Files in the order in which they were tried; losses in points of accuracy."
        sections.append(PageSection("Search", rows, note))
    if sweep := facts.get("sweep"):
        note = (
            "Loss in points of accuracy, "
            + ("measured on labeled images" if sweep["measured"] else "estimated, and its bound")
            + "; latency of one image in ONNX Runtime on one thread."
        )
        title = f"Loss against size and latency of {sweep['model']}"
        sections.append(PageSection(title, sweep_rows(sweep), note, sweep_svg(sweep)))
    if svg := bits_svg(facts.get("export", {}).get("layers") or ()):
        note = "Quantized layers in order of execution; 20 dB is an error of a tenth."
        sections.append(PageSection("Bits and errors by layer", (), note, svg))
    for errors in (facts.get(each, {}).get("layer_errors") for each in ("layers", "evaluation")):
        if errors:
            rows = [error_row(each, errors["costly"]) for each in errors["layers"]]
            note = (
                "Signal to noise in dB: 20 is an error of a tenth, 40 of a hundredth. Histograms "
                "have the outputs of a layer on the same images, in the original (filled) and in "
                "the file (line), on a logarithmic scale. Try "
                + " Or ".join(f"{line}." for line in errors["advice"])
            )
            sections.append(PageSection("Layers compared", rows, note, errors_svg(errors)))
    return sections


def _sentences(facts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    found = {name: text for name, text in summary_rows(facts).items() if text}
    done = found.pop("done", "")
    named = [f"{name[0].upper()}{name[1:]}: {text}." for name, text in found.items()]
    return [f"{done}."] * bool(done) + named


def _is_pruned(export: Mapping[str, Any]) -> bool:
    return any(layer["sparsity"] for layer in export.get("layers", ()))


def _rows(
    export: Mapping[str, Any], evaluation: Mapping[str, Any], images: ImageSet | None
) -> list[dict[str, Any]]:
    """The rows of the network before and after, as ``benchmark_record`` describes them."""
    before = export.get("before")
    if not before:
        return []
    shared = {"model": export["teacher"], "task": "compress"}
    measured = {
        "top1": evaluation.get("top1"),
        "num_test": evaluation.get("num_images"),
        "agreement": evaluation.get("agreement"),
    }
    after = {
        "setting": export.get("setting"),
        "images": "none" if images is None else "images",
        "num_images": None if images is None else len(images),
        "size_bytes": export["size_bytes"],
        "latency_ms": export["latency_ms"],
        # Of pruned networks: quantization rounds weights to zero, too.
        "sparsity": export.get("sparsity") if _is_pruned(export) else None,
    }
    plain = {"setting": "float", "images": "float", **before}
    return [shared | plain, shared | after | measured]
