"""Comparison of candidates for the library's defaults.

Networks are pruned on synthetic images and judged by their divergence from the original, on images
of the training split that are used for nothing else.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from harness.cells import budget_of, budget_parser, numbers
from harness.cifar10 import load_cifar10
from harness.clocks import in_fresh_process, stopwatch
from harness.networks import load_network
from harness.record import Record
from harness.sources import ZOOS, Budget, images_of

from mixmix import ImageSet, Method, Model, compress
from mixmix.compress.divergence import mean_divergence, run_in_batches
from mixmix.models.model import normalize
from mixmix.runtime import seeding

__all__ = ["Choice", "choice_parser", "compare"]

_NUM_PHOTOGRAPHS = 3000


@dataclass(frozen=True)
class Choice:
    """One way to prune.

    Attributes:
        setting: the budget, the same for all choices that are compared.
        recovery: name of the recovery.
        chosen: the values that differ, by column name.
        method: with these values.
    """

    setting: str
    recovery: str
    chosen: Mapping[str, Any]
    method: Method


def choice_parser(description: str | None) -> argparse.ArgumentParser:
    """Options shared by comparisons of choices."""
    parser = budget_parser(description, sources=("mixmix",), num_images=1024, seeds="0")
    parser.add_argument("--networks", default=",".join(ZOOS["zoo"]))
    return parser


def compare(question: str, choices: Iterable[Choice], arguments: argparse.Namespace) -> None:
    """Add the missing rows for all networks and choices to the record."""
    choices = list(choices)
    columns = tuple(dict.fromkeys(name for choice in choices for name in choice.chosen))
    key = ("model", "setting", "recovery", *columns, "images", "seed")
    budget = budget_of(arguments, zoo="zoo-without-resnet44")
    record = Record(arguments.out / "result.json", question, key)
    for network, choice, source, seed in itertools.product(
        arguments.networks.split(","),
        choices,
        arguments.sources.split(","),
        numbers(arguments.seeds),
    ):
        row = {
            "model": network,
            "task": "prune",
            "setting": choice.setting,
            "recovery": choice.recovery,
            **choice.chosen,
            "images": source,
            "num_images": budget.num_images,
            "seed": seed,
        }
        if row in record:
            continue
        folder, _ = images_of(source, network, budget, seed=seed)
        found = in_fresh_process(_measure, row, choice.method, folder, budget)
        record.add(found)
        told = f"{found['divergence']:.4f} {found['agreement']:.2f}%"
        print(*(found[name] for name in key), told, flush=True)


def _measure(row: dict[str, Any], method: Method, folder: Path, budget: Budget) -> dict[str, Any]:
    """A row, with what was measured."""
    target = Model(*load_network(row["model"], budget.weights_dir))
    photographs, _ = load_cifar10(budget.data, split="train")
    order = torch.randperm(len(photographs), generator=seeding.generator(0, "photographs"))
    images = normalize(photographs[order[:_NUM_PHOTOGRAPHS]].float() / 255, target.spec)
    with stopwatch() as cost:
        compressed = compress(target, ImageSet.load(folder), method, seed=row["seed"])
    wanted, found = (run_in_batches(m, images) for m in (target.module, compressed.module))
    measured = {
        "divergence": mean_divergence(wanted, found),
        "agreement": 100 * float((wanted.argmax(1) == found.argmax(1)).float().mean()),
        "num_photographs": len(images),
    }
    ratio = compressed.applied[0].results.get("parameters_ratio")
    if ratio is not None:
        measured["parameters_ratio"] = ratio
    return row | measured | cost.rounded()
