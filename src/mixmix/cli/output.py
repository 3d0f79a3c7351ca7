"""What commands print: a table for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixmix.cli.execute import Outcome
    from mixmix.compress.method import Compressed, LayerRecord

__all__ = ["file_content", "file_title", "images_content", "layer_rows", "report", "report_file"]


def report(
    content: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    *,
    title: str = "",
) -> None:
    """Print ``content`` as JSON on standard output, or ``rows`` as a table."""
    if as_json:
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if title:
        console.print(title, highlight=False)
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        # Names that end in an ellipsis could not be copied.
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("–" if value is None else _text(value) for value in row.values()))
    console.print(table)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def images_content(outcome: Outcome) -> dict[str, Any]:
    """Facts about the images of a run."""
    from mixmix.data.image_set import label_agreement

    images = outcome.images
    assert images is not None
    content: dict[str, Any] = {
        "num_images": len(images),
        "label_agreement": label_agreement(images.soft_labels, images.labels),
    }
    if outcome.contact_sheet is not None:
        content["contact_sheet"] = str(outcome.contact_sheet)
    return content


def file_content(outcome: Outcome) -> dict[str, Any]:
    """Facts about the compressed model and its file: size, agreement, estimate, layers."""
    compressed, artifact, estimate = outcome.compressed, outcome.artifact, outcome.estimate
    assert compressed is not None
    written = (
        {}
        if artifact is None
        else {
            "out": str(artifact.path),
            "size_bytes": artifact.size_bytes,
            "agreement_with_pytorch": artifact.agreement,
        }
    )
    return {
        "model": compressed.spec.name,
        **written,
        "estimate": None if estimate is None else estimate.to_dict(),
        "layers": [record.to_dict() for record in compressed.records],
    }


def file_title(outcome: Outcome) -> str:
    """One line on the file and on the accuracy that compression may cost."""
    artifact, estimate = outcome.artifact, outcome.estimate
    title = "" if artifact is None else f"wrote {artifact.path} ({artifact.size_bytes:,} bytes)"
    if estimate is not None:
        low, high = estimate.predicted_drop_interval
        title += (
            f"; estimated loss of accuracy {estimate.predicted_drop:.1f} points "
            f"({low:.1f} to {high:.1f}), agreement {estimate.agreement:.1f}%"
        )
    return title.removeprefix("; ")


def report_file(extra: Mapping[str, Any], outcome: Outcome, as_json: bool) -> None:
    """Print what was written, the estimated loss of accuracy, and a row for each layer.

    Args:
        extra: further entries of the JSON object.
        outcome: of the run.
        as_json: whether to print one JSON object instead of a table.
    """
    assert outcome.compressed is not None
    content = {**extra, **file_content(outcome)}
    report(content, layer_rows(outcome.compressed), as_json, title=file_title(outcome))


def layer_rows(compressed: Compressed) -> list[dict[str, Any]]:
    """Records as rows of a table, without columns that are empty."""
    records: Sequence[LayerRecord] = compressed.records
    rows = [record.to_dict() for record in records]
    for row in rows:
        for side in ("in_channels", "out_channels"):
            row[side] = _before_and_after(row[side])
    for name in ("sparsity", "in_channels", "out_channels"):
        if all(row[name] is None for row in rows):
            for row in rows:
                del row[name]
    return rows


def _before_and_after(channels: tuple[int, int] | None) -> str | None:
    if channels is None:
        return None
    before, after = channels
    return str(before) if before == after else f"{before}→{after}"
