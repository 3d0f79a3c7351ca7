"""Accuracy in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixmix._display import percent
from mixmix.report.table import print_rows

__all__ = ["print_evaluation"]

# Of more classes, those of the lowest accuracy are printed.
_MOST_CLASSES, _NUM_WORST = 20, 10


def print_evaluation(facts: Mapping[str, Any]) -> None:
    """Print an evaluation (``Evaluation.to_dict``): its numbers, and a table of the classes."""
    rows = [
        {"measure": title, "value (95% interval)": _percent(facts, name)}
        for name, title in _titles(facts).items()
        if facts.get(name) is not None
    ]
    print_rows([*rows, {"measure": "images", "value (95% interval)": f"{facts['num_images']:,}"}])
    classes: Sequence[Mapping[str, Any]] = facts.get("class_accuracy") or ()
    if len(classes) < 2:
        return
    worst = sorted(classes, key=lambda each: float(each["accuracy"]))
    shown = worst[:_NUM_WORST] if len(classes) > _MOST_CLASSES else classes
    title = f"the {len(shown)} worst of {len(classes)} classes" if len(shown) < len(classes) else ""
    print(f"\n{title or 'by class'}")
    several = any(each["taken_for"] for each in shown)
    print_rows(
        [
            {
                "class": each["name"],
                "accuracy": percent(each["accuracy"], tuple(each["interval"])),
                "images": each["num_images"],
            }
            | ({"mostly taken for": each["taken_for"]} if several else {})
            for each in shown
        ]
    )


def _titles(facts: Mapping[str, Any]) -> dict[str, str]:
    of_labels = "label_accuracy" in facts
    return {
        "top1": "all labels right" if of_labels else "top-1 accuracy",
        "top5": "top-5 accuracy",
        "label_accuracy": "labels right",
        "agreement": "agreement",
    }


def _percent(facts: Mapping[str, Any], name: str) -> str:
    interval = facts.get(f"{name}_interval")
    return percent(facts[name], None if interval is None else tuple(interval))
