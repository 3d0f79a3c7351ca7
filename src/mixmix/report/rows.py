"""Rows of results formatted for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixmix.evaluate.intervals import wilson_interval

__all__ = ["ABSENT", "ResultRow", "format_latency", "format_rows", "format_size"]

ABSENT = "–"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ResultRow:
    """A row of results as text; ``ABSENT`` stands for missing values."""

    model: str
    task: str
    setting: str
    images: str
    seed: str
    top1: str
    interval: str
    agreement: str
    size: str
    ratio: str
    latency: str
    sparsity: str
    is_float: bool


def format_rows(rows: Sequence[Row]) -> list[ResultRow]:
    """Format rows of a record (see ``benchmark_record``).

    Size ratios are relative to the float model, whose row has ``float`` as its images.
    """
    float_sizes = {
        row.get("model"): row.get("size_bytes") for row in rows if row.get("images") == "float"
    }
    return [_format_row(row, float_sizes.get(row.get("model"))) for row in rows]


def _format_row(row: Row, float_size: Any) -> ResultRow:
    is_float = row.get("images") == "float"
    num_test = row.get("num_test")
    # No more digits than the sampling error warrants.
    digits = 2 if isinstance(num_test, int) and num_test >= 10_000 else 1
    return ResultRow(
        model=_text(row.get("model")),
        task=_text(row.get("task")),
        setting=_text(row.get("setting")),
        images=ABSENT if is_float else _images(row),
        seed=_text(row.get("seed")),
        top1=_percent(row.get("top1"), digits),
        interval=_interval(row.get("top1"), num_test, digits),
        agreement=_percent(row.get("agreement"), digits),
        size=format_size(row.get("size_bytes")),
        ratio=_ratio(row.get("size_bytes"), float_size),
        latency=format_latency(row.get("latency_ms")),
        sparsity=_percent(row.get("sparsity"), 1, scale=100),
        is_float=is_float,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _text(value: Any) -> str:
    return ABSENT if value is None or value == "" else str(value)


def _images(row: Row) -> str:
    name, count = _text(row.get("images")), row.get("num_images")
    return f"{name} ({count:,})" if _is_number(count) else name


def _percent(value: Any, digits: int, scale: int = 1) -> str:
    return f"{scale * value:.{digits}f}%" if _is_number(value) else ABSENT


def _interval(top1: Any, num_test: Any, digits: int) -> str:
    if not (_is_number(top1) and _is_number(num_test) and num_test >= 1 and 0 <= top1 <= 100):
        return ""
    low, high = wilson_interval(round(top1 / 100 * num_test), int(num_test))
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}"


def format_size(size_bytes: Any) -> str:
    """Bytes as text, such as ``562 kB``."""
    if not _is_number(size_bytes):
        return ABSENT
    if size_bytes < 1e3:
        return f"{size_bytes:.0f} B"
    # 999,500 bytes and more would round to 1000 kB.
    return f"{size_bytes / 1e3:.0f} kB" if size_bytes < 999_500 else f"{size_bytes / 1e6:.2f} MB"


def _ratio(size_bytes: Any, float_size: Any) -> str:
    if not (_is_number(size_bytes) and _is_number(float_size) and float_size > 0):
        return ABSENT
    return f"{size_bytes / float_size:.2f}×"


def format_latency(latency_ms: Any) -> str:
    """Milliseconds as text, such as ``0.30 ms``."""
    if not _is_number(latency_ms):
        return ABSENT
    return f"{latency_ms:.2f} ms" if latency_ms < 10 else f"{latency_ms:.1f} ms"
