"""Draw the table of estimated losses and their bounds, from a record and the kept logits.

``python benchmarks/draw_loss_bounds.py benchmarks/records/DATE_estimates/result.json WORK``

The last number leaves one network out: its factor of the bound is the largest that any other
network needs.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from mixmix.evaluate.estimation import loss_and_bound
from mixmix.runtime.storage import read_json, read_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("record", type=Path)
    parser.add_argument("work", type=Path)
    arguments = parser.parse_args()
    cells = []
    print("| network | setting | images | seed | lost (standard error) | estimate | at most |")
    print("|---|---|---|---|---|---|---|")
    for row in read_json(arguments.record)["rows"]:
        logits = read_tensors(arguments.work / "logits" / row["logits"])[0]
        found = loss_and_bound(logits["reference"], logits["compressed"], logits["soft_labels"])
        lost = row["float_top1"] - row["top1"]
        cells.append((row["model"], lost, found.drop, found.bound))
        noise = math.sqrt(100 * (100 - row["agreement"]) / row["num_test"])
        print(
            f"| {row['model']} | {row['setting']} | {row['images']} | {row['seed']} | {lost:.2f} "
            f"({noise:.2f}) | {found.drop:.2f} | {found.bound:.2f} |"
        )
    errors = torch.tensor([drop - lost for _, lost, drop, _ in cells])
    held = sum(lost <= bound for _, lost, _, bound in cells)
    print(
        f"\nmean error {errors.mean():+.2f} points, mean absolute error {errors.abs().mean():.2f}"
    )
    print(f"within the bound: {held} of {len(cells)}")
    held = 0
    for network, lost, drop, _ in cells:
        others = [(a - 0.3) / b for name, a, b, _ in cells if name != network and b > 0]
        held += lost <= max(others) * drop + 0.3
    print(f"within a bound from the other networks: {held} of {len(cells)}")


if __name__ == "__main__":
    main()
