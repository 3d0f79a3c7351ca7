"""A self-contained HTML report."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mixmix.compress.method import LayerRecord
from mixmix.errors import DataError
from mixmix.report.curves import loss_curves_svg
from mixmix.report.record import describe_machine, describe_versions
from mixmix.report.rows import ABSENT, format_rows
from mixmix.runtime.storage import write_atomic

__all__ = ["PageSection", "ReportRun", "write_page"]


@dataclass(frozen=True)
class PageSection:
    """A drawing, a table of text whose columns are the keys of its rows, or both."""

    title: str
    rows: Sequence[Mapping[str, str]]
    note: str = ""
    svg: str | None = None


@dataclass(frozen=True)
class ReportRun:
    """The content of a report.

    Attributes:
        title: title of the page.
        summary: the main result, in one or two sentences.
        rows: results in the record format (see ``benchmark_record``).
        command: shell command that reproduces the run.
        manifest: manifest of the synthetic images (``ImageSet.manifest``); empty without images.
        contact_sheet: PNG file with some of the images (``ImageSet.contact_sheet``), or None.
        records: layer records by setting.
        sections: further tables and drawings.
        date: ISO date of the run, in UTC.
        machine: see ``describe_machine``.
        versions: see ``describe_versions``.
    """

    title: str
    summary: str
    rows: Sequence[Mapping[str, Any]]
    command: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    contact_sheet: Path | None = None
    records: Mapping[str, Sequence[LayerRecord]] = field(default_factory=dict)
    sections: Sequence[PageSection] = ()
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).date().isoformat())
    machine: Mapping[str, Any] = field(default_factory=describe_machine)
    versions: Mapping[str, str] = field(default_factory=describe_versions)


def write_page(path: str | Path, run: ReportRun) -> Path:
    """Write a page without scripts or references to other files, and return its path.

    Raises:
        DataError: if the contact sheet is missing or not a PNG file.
        InputError: if the page cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("mixmix.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = _text
    html = environment.get_template("page.html.jinja").render(_content(run))
    target = Path(path)
    write_atomic(target, html.encode())
    return target


def _content(run: ReportRun) -> dict[str, Any]:
    """The variables of the template."""
    rows = format_rows(run.rows)
    shards = run.manifest.get("shards", ())
    fraction = run.manifest.get("settings", {}).get("mixing_fraction", 0.0)
    curves = loss_curves_svg(shards, mixing_fraction=fraction)
    return {
        "run": run,
        "rows": rows,
        "several_models": len({row.model for row in rows}) > 1,
        "any_pruned": any(row.sparsity != ABSENT for row in rows),
        "several_seeds": len({row.seed for row in rows}) > 1,
        "num_test": sorted({row["num_test"] for row in run.rows if row.get("num_test")}),
        "contact_sheet": _data_url(run.contact_sheet) if run.contact_sheet else None,
        "sheet_classes": _class_names(run.manifest),
        # Matplotlib escapes the names of the terms.
        "curves": Markup(curves) if curves else None,
        "sections": [(each, Markup(each.svg) if each.svg else None) for each in run.sections],
        "num_batches": sum(1 for shard in shards if shard.get("losses")),
        "layers": [
            {
                "setting": setting,
                "summary": _count_actions(records),
                "records": records,
                "any_pruned": any(record.sparsity is not None for record in records),
            }
            for setting, records in run.records.items()
        ],
        "models": run.manifest.get("models", ()),
        "settings": run.manifest.get("settings", {}),
        "synthesis": _synthesis_facts(run.manifest),
        "absent": ABSENT,
    }


def _data_url(picture: Path) -> str:
    try:
        content = picture.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the contact sheet {picture}: {error}") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise DataError(
            f"the contact sheet {picture} is not a PNG file; create one with ImageSet.contact_sheet"
        )
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _class_names(manifest: Mapping[str, Any]) -> list[str]:
    named = [model["classes"] for model in manifest.get("models", ()) if model.get("classes")]
    return list(named[0]) if named else []


def _count_actions(records: Sequence[LayerRecord]) -> str:
    counts = Counter(record.action for record in records)
    return ", ".join(f"{count} {action}" for action, count in counts.items())


def _synthesis_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about the images, in the order of the page."""
    if not manifest:
        return {}
    shards = manifest.get("shards", ())
    facts: dict[str, Any] = {
        "images": f"{sum(shard['num_images'] for shard in shards):,}",
        "shards": len(shards),
        "seed": manifest.get("seed"),
    }
    agreed = [s for s in shards if s.get("label_agreement") is not None]
    if agreed:
        hits = sum(shard["label_agreement"] * shard["num_images"] for shard in agreed)
        fraction = hits / max(1, sum(shard["num_images"] for shard in agreed))
        facts["images predicted as labeled"] = f"{100 * fraction:.1f}%"
    made = {**manifest.get("versions", {}), **manifest.get("machine", {})}
    return facts | {f"made with {key.replace('_', ' ')}": value for key, value in made.items()}


def _text(value: Any) -> str:
    """A value of a settings table as plain text."""
    if value is None or value == "":
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return str(value)
