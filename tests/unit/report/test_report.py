"""The page, the table and the record of a run."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from mixmix.compress.method import LayerRecord
from mixmix.errors import DataError, InputError
from mixmix.report.curves import loss_curves_svg
from mixmix.report.page import ReportRun, write_page
from mixmix.report.record import _cpu_name, benchmark_record
from mixmix.report.rows import ABSENT, format_rows
from mixmix.report.table import print_results

# Elements that HTML closes by themselves.
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that every element is closed in order, and keeps what a test looks at."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def trace(start: float = 8.0) -> list[dict[str, float]]:
    return [
        {"iteration": i, "bn": start / (i + 1), "ce": 2.0 - i / 100, "tv": 0.1}
        for i in range(0, 100, 5)
    ]


def manifest(**changes: Any) -> dict[str, Any]:
    model = {
        "name": "resnet",
        "source": "bundled:resnet",
        "license": "Apache-2.0",
        "sha256": "0a1b" * 16,
        "classes": ["cat", "dog"],
    }
    return {
        "models": [model],
        "settings": {"num_images": 8, "box_area": [0.1, 0.5], "members_per_step": None},
        "seed": 7,
        "versions": {"torch": "2.14.1"},
        "machine": {"device": "cpu", "threads": 2},
        "shards": [
            {"file": "a", "num_images": 4, "label_agreement": 1.0, "losses": trace()},
            {"file": "b", "num_images": 4, "label_agreement": 0.5, "losses": trace(9.0)},
        ],
    } | changes


FLOAT = {
    "model": "resnet",
    "task": "quantize",
    "setting": "FP32",
    "images": "float",
    "seed": 0,
    "top1": 93.1,
    "num_test": 1000,
    "size_bytes": 1_120_000,
    "latency_ms": 12.34,
}
W4A4 = FLOAT | {
    "setting": "W4A4",
    "images": "mixmix",
    "num_images": 1024,
    "top1": 91.0,
    "agreement": 94.25,
    "size_bytes": 168_000,
    "latency_ms": None,
}
RECORDS = (
    LayerRecord("conv1", "Conv2d", "quantized", "", 432, 8, 8, 1.23e-5),
    LayerRecord("bn1", "BatchNorm2d", "folded", "into conv1", 32),
    LayerRecord("gate", "PReLU", "skipped", "no integer form", 16),
)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.png"
    Image.new("RGB", (20, 10), "red").save(path)
    return path


@pytest.fixture
def run(sheet: Path) -> ReportRun:
    return ReportRun(
        title="mixmix demo",
        summary="resnet keeps 91.0% of its 93.1%.",
        rows=[FLOAT, W4A4],
        command="mixmix demo --seed 7",
        manifest=manifest(),
        contact_sheet=sheet,
        records={"W4A4": RECORDS},
        date="2025-01-02",
        machine={"cpu": "Some CPU", "cores": 2, "memory_gib": 24.0},
        versions={"mixmix": "0.1.0", "torch": "2.14.1"},
    )


def rendered(tmp_path: Path, run: ReportRun) -> tuple[str, Page]:
    html = write_page(tmp_path / "out" / "report.html", run).read_text(encoding="utf-8")
    return html, Page(html)


class TestPage:
    def test_shows_everything(self, tmp_path: Path, run: ReportRun) -> None:
        _, page = rendered(tmp_path, run)
        for expected in (
            "mixmix demo",
            "resnet keeps 91.0% of its 93.1%.",
            "2025-01-02",
            "Some CPU",
            "mixmix demo --seed 7",
            "0a1b" * 16,
            "bundled:resnet",
            "0.1, 0.5",
            "1,000 real images",
            "BatchNorm statistics",
            "Cross-entropy",
            "Total variation",
            "the 2 batches",
            "cat, dog",
            "75.0%",
            "1 quantized, 1 folded, 1 skipped",
        ):
            assert expected in page.text

    def test_result_rows(self, tmp_path: Path, run: ReportRun) -> None:
        _, page = rendered(tmp_path, run)
        assert page.rows[1:3] == [
            ["FP32", "–", "93.1%91.4–94.5", "–", "1.12 MB", "1.00×", "12.3 ms"],
            ["W4A4", "mixmix (1,024)", "91.0%89.1–92.6", "94.2%", "168 kB", "0.15×", "–"],
        ]

    def test_layer_rows(self, tmp_path: Path, run: ReportRun) -> None:
        _, page = rendered(tmp_path, run)
        assert page.rows[4:7] == [
            ["conv1", "Conv2d", "quantized", "432", "8", "8", "1.2e-05"],
            ["bn1", "BatchNorm2d", "folded: into conv1", "32", "–", "–", "–"],
            ["gate", "PReLU", "skipped: no integer form", "16", "–", "–", "–"],
        ]

    def test_needs_nothing_from_outside(self, tmp_path: Path, run: ReportRun) -> None:
        html, page = rendered(tmp_path, run)
        assert not re.search(r"https?://", html)
        assert not {"script", "link", "iframe", "object"} & set(page.tags)
        for name, value in page.attributes:
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:image/png;base64,", "#"))
        assert "@import" not in html
        assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", html))

    def test_references_inside_the_page_resolve(self, tmp_path: Path, run: ReportRun) -> None:
        html, page = rendered(tmp_path, run)
        targets = {value[1:] for name, value in page.attributes if name == "xlink:href"}
        targets |= set(re.findall(r"url\(#(.*?)\)", html))
        assert targets
        assert targets <= set(page.ids)
        assert len(page.ids) == len(set(page.ids))

    def test_escapes_everything(self, tmp_path: Path, run: ReportRun) -> None:
        bad = "<script>alert('x')</script>\"&"
        shard = {
            "num_images": 4,
            "losses": [{"iteration": i, bad: 1.0, "$\\frac": 2.0} for i in range(3)],
        }
        hostile = ReportRun(
            title=bad,
            summary=bad,
            rows=[FLOAT | {"model": bad, "setting": bad}, W4A4 | {"images": bad}],
            command=bad,
            manifest=manifest(
                models=[{"name": bad, "source": bad, "license": bad, "sha256": bad,
                         "classes": [bad]}],
                settings={bad: bad},
                shards=[shard],
                machine={bad: bad},
            ),
            records={bad: [LayerRecord(bad, bad, bad, bad)]},
            machine={"cpu": bad, "cores": 1},
            versions={bad: bad},
        )  # fmt: skip
        html, page = rendered(tmp_path, hostile)
        assert "<script" not in html
        assert "script" not in page.tags
        assert page.text.count(bad) >= 20

    def test_adapts_to_the_reader(self, tmp_path: Path, run: ReportRun) -> None:
        html, _ = rendered(tmp_path, run)
        assert "prefers-color-scheme: dark" in html
        assert 'name="viewport"' in html
        # Colors of the curves follow the page's.
        assert "var(--accent)" in html[html.index("<svg") :]

    def test_columns_for_models_and_seeds_where_there_are_several(
        self, tmp_path: Path, run: ReportRun
    ) -> None:
        _, page = rendered(tmp_path, run)
        assert "Model" not in page.rows[0]
        assert "Seed" not in page.rows[0]
        several = replace(run, rows=[FLOAT, W4A4, W4A4 | {"seed": 1}, W4A4 | {"model": "vgg"}])
        _, page = rendered(tmp_path, several)
        assert page.rows[0][:4] == ["Model", "Setting", "Images", "Seed"]
        assert [row[0] for row in page.rows[1:5]] == ["resnet", "resnet", "resnet", "vgg"]
        assert [row[3] for row in page.rows[1:5]] == ["0", "0", "1", "0"]

    def test_least_run(self, tmp_path: Path) -> None:
        least = ReportRun(title="t", summary="s", rows=[{"setting": "W8A8"}], command="c")
        _, page = rendered(tmp_path, least)
        assert page.rows[1] == ["W8A8", *[ABSENT] * 6]
        assert "img" not in page.tags
        assert "svg" not in page.tags
        assert "details" not in page.tags

    def test_same_run_same_bytes(self, tmp_path: Path, run: ReportRun) -> None:
        assert rendered(tmp_path, run)[0] == rendered(tmp_path, run)[0]

    def test_contact_sheet_that_is_no_png(self, tmp_path: Path, run: ReportRun) -> None:
        (tmp_path / "sheet.txt").write_text("x")
        with pytest.raises(DataError, match="not a PNG file"):
            write_page(tmp_path / "r.html", replace(run, contact_sheet=tmp_path / "sheet.txt"))
        with pytest.raises(DataError, match="cannot read the contact sheet"):
            write_page(tmp_path / "r.html", replace(run, contact_sheet=tmp_path / "absent.png"))
        assert not (tmp_path / "r.html").exists()

    def test_folder_that_cannot_be_made(self, tmp_path: Path, run: ReportRun) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(InputError, match="cannot write"):
            write_page(tmp_path / "file" / "r.html", run)


class TestCurves:
    @pytest.mark.parametrize(
        "shards", [[], [{}], [{"losses": []}], [{"losses": [{"iteration": 0, "bn": 1.0}]}]]
    )
    def test_nothing_to_draw(self, shards: list[dict[str, Any]]) -> None:
        assert loss_curves_svg(shards) is None

    def test_one_line_a_shard_and_one_for_the_mean(self) -> None:
        def count_lines(num_shards: int) -> int:
            svg = loss_curves_svg([{"losses": trace()}] * num_shards)
            assert svg is not None
            return len(re.findall(r'style="fill: none; stroke: var\(--accent\)', svg))

        assert count_lines(1) == 3
        assert count_lines(4) == 3 * (4 + 1)

    def test_terms_that_some_iterations_or_shards_lack(self) -> None:
        one = [{"iteration": 0, "bn": 1.0}, {"iteration": 1, "bn": 1.0, "ce": 0.0}]
        other = [{"iteration": 0, "tv": 0.1}, {"iteration": 3, "tv": 0.1}]
        svg = loss_curves_svg([{"losses": one}, {"losses": other}, {"num_images": 2}])
        assert svg is not None
        assert all(title in svg for title in ("BatchNorm", "Cross-entropy", "Total variation"))

    def test_leaves_the_settings_of_matplotlib_alone(self) -> None:
        import matplotlib

        before = dict(matplotlib.rcParams)
        loss_curves_svg([{"losses": trace()}])
        assert dict(matplotlib.rcParams) == before


class TestRows:
    @pytest.mark.parametrize(
        ("size_bytes", "text"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (46_800_000, "46.80 MB"),
            (None, ABSENT),
        ],
    )
    def test_size(self, size_bytes: int | None, text: str) -> None:
        assert format_rows([{"size_bytes": size_bytes}])[0].size == text

    def test_digits_follow_the_number_of_test_images(self) -> None:
        row = format_rows([FLOAT | {"num_test": 10_000, "top1": 93.12}])[0]
        assert (row.top1, row.interval) == ("93.12%", "92.61–93.60")

    def test_ratio_is_to_the_same_model(self) -> None:
        other = {"model": "vgg", "images": "float", "size_bytes": 5_000_000}
        rows = format_rows([W4A4, FLOAT, other, W4A4 | {"model": "vgg"}, W4A4 | {"model": "x"}])
        assert [row.ratio for row in rows] == ["0.15×", "1.00×", "1.00×", "0.03×", ABSENT]

    def test_what_was_not_measured(self) -> None:
        row = format_rows([W4A4 | {"top1": float("nan"), "agreement": None, "num_test": 0}])[0]
        assert (row.top1, row.interval, row.agreement) == (ABSENT, "", ABSENT)


class TestTable:
    @staticmethod
    def printed(rows: list[dict[str, Any]]) -> list[list[str]]:
        console = Console(file=io.StringIO(), width=120, color_system=None)
        print_results(rows, console)
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        return [re.split(r"\s{2,}", line.strip()) for line in lines]

    def test_cells(self) -> None:
        assert self.printed([FLOAT, W4A4]) == [
            ["Setting", "Images", "Top-1", "Agreement", "Size", "Ratio", "Latency"],
            ["FP32", "–", "93.1% (91.4–94.5)", "–", "1.12 MB", "1.00×", "12.3 ms"],
            ["W4A4", "mixmix (1,024)", "91.0% (89.1–92.6)", "94.2%", "168 kB", "0.15×", "–"],
        ]

    def test_several_models_and_seeds(self) -> None:
        lines = self.printed([FLOAT, W4A4 | {"model": "vgg", "seed": 3}])
        assert lines[0][:4] == ["Model", "Seed", "Setting", "Images"]
        assert [line[:3] for line in lines[1:]] == [["resnet", "0", "FP32"], ["vgg", "3", "W4A4"]]

    def test_names_are_no_markup(self) -> None:
        assert self.printed([W4A4 | {"setting": "[red]W4[/]"}])[1][0] == "[red]W4[/]"

    def test_fits_a_narrow_terminal(self) -> None:
        console = Console(file=io.StringIO(), width=80, color_system=None)
        print_results([FLOAT, W4A4], console)
        assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]

    def test_no_rows(self) -> None:
        assert self.printed([])[0][0] == "Setting"


class TestRecord:
    def test_keys(self) -> None:
        record = benchmark_record("Does it work?", "python benchmarks/x.py", [FLOAT, W4A4])
        assert list(record) == ["question", "command", "date", "machine", "versions", "rows"]
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", record["date"])
        assert {"cpu", "cores", "memory_gib"} <= set(record["machine"])
        assert record["machine"]["cores"] >= 1
        assert {"mixmix", "torch", "onnxruntime", "numpy", "python"} == set(record["versions"])
        assert record["versions"]["torch"] == torch.__version__
        assert record["rows"] == [FLOAT, W4A4]
        assert json.loads(json.dumps(record, allow_nan=False)) == record

    def test_plain_types(self) -> None:
        row = {
            "top1": torch.tensor(91.5),
            "latency_ms": np.float64(1.5),
            "num_test": np.int64(10),
            "zoo": ("a", "b"),
            "values": np.array([1.0, np.nan]),
            "loss": float("inf"),
            "path": Path("x"),
            "done": True,
            "nested": {1: torch.tensor([2])},
        }
        [found] = benchmark_record("q", "c", [row])["rows"]
        assert found == {
            "top1": 91.5,
            "latency_ms": 1.5,
            "num_test": 10,
            "zoo": ["a", "b"],
            "values": [1.0, None],
            "loss": None,
            "path": "x",
            "done": True,
            "nested": {"1": [2]},
        }
        assert type(found["num_test"]) is int
        assert found["done"] is True

    def test_cpu_name(self, tmp_path: Path) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
        assert _cpu_name(cpuinfo) == "Some CPU @ 2 GHz"
        cpuinfo.write_text("processor\t: 0\n")
        assert _cpu_name(cpuinfo)
        assert _cpu_name(tmp_path / "absent")


def test_the_thick_line_is_the_mean_of_the_thin_ones() -> None:
    shards = [
        {"losses": [{"iteration": i, "bn": level} for i in range(3)]} for level in (2.0, 4.0, 3.6)
    ]
    svg = loss_curves_svg(shards)
    assert svg is not None
    heights: dict[str, list[float]] = {"0.7": [], "1.8": []}
    for path, width in re.findall(r'<path d="([^"]*)"[^>]*stroke-width: ([\d.]+)', svg):
        points = re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)
        if width in heights and len(points) == 3:
            heights[width].append(float(points[0][1]))
    assert len(heights["0.7"]) == 3 and len(heights["1.8"]) == 1
    assert heights["1.8"][0] == pytest.approx(sum(heights["0.7"]) / 3, abs=0.01)
