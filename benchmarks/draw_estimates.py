"""Draw how well losses of accuracy were predicted without data, in a record of quantization.

``python benchmarks/draw_estimates.py benchmarks/records/DATE_quantization/result.json
benchmarks/records/DATE_quantization/estimates.svg``
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from mixmix.runtime.storage import read_json

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("figure", type=Path)
    arguments = parser.parse_args()
    rows = read_json(arguments.record)["rows"]
    floats = {row["model"]: row["top1"] for row in rows if row["setting"] == "float"}
    rows = [row for row in rows if "predicted_drop" in row]
    with matplotlib.rc_context({"svg.hashsalt": "mixmix", "svg.fonttype": "none"}):
        _draw(rows, floats).savefig(arguments.figure, metadata={"Date": None})
    # Calibration on noise fails in a way of its own, and would stretch the correlation.
    images = [row for row in rows if row["images"] != "noise"]
    for name, some in (("all", rows), ("without noise", images)):
        print(f"{name}: {_summary(some, floats)}")


def _draw(rows: list[Row], floats: dict[str, float]) -> Figure:
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for model in floats:
        mine = [row for row in rows if row["model"] == model]
        if not mine:
            continue
        predicted = [row["predicted_drop"] for row in mine]
        spread = [
            [row["predicted_drop"] - row["predicted_drop_interval"][0] for row in mine],
            [row["predicted_drop_interval"][1] - row["predicted_drop"] for row in mine],
        ]
        real = [floats[model] - row["top1"] for row in mine]
        axes.errorbar(real, predicted, yerr=spread, fmt="o", ms=3, lw=0.6, label=model)
    highest = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([0, highest], [0, highest], color="gray", lw=0.8)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("accuracy lost on the test split (points)")
    axes.set_ylabel("predicted from synthetic images (points)")
    axes.legend()
    return figure


def _summary(rows: list[Row], floats: dict[str, float]) -> str:
    real = [floats[row["model"]] - row["top1"] for row in rows]
    predicted = [row["predicted_drop"] for row in rows]
    errors = [abs(one - other) for one, other in zip(real, predicted, strict=True)]
    rank = spearmanr(real, predicted).statistic
    mean = sum(errors) / len(errors)
    return f"n {len(rows)}, mean absolute error {mean:.2f} points, rank correlation {rank:.2f}"


if __name__ == "__main__":
    main()
