"""The original networks, with which compressed ones are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from harness.cifar10 import load_cifar10
from harness.clocks import in_fresh_process
from harness.networks import load_network
from harness.sources import Budget
from mixmix import Model, evaluate
from mixmix.runtime.storage import read_json, read_tensors, write_json, write_tensors

__all__ = ["agreement_with_floats", "float_row"]


def float_row(network: str, budget: Budget, *, task: str) -> dict[str, Any]:
    """A network on the whole test split, measured unless it was measured before."""
    path = _path(network, budget)
    if not path.exists():
        in_fresh_process(_measure, network, budget)
    return read_json(path) | {"task": task}


def agreement_with_floats(predictions: Tensor, network: str, budget: Budget) -> float:
    """Percent of the test split that is put into the class that the network gave it.

    Args:
        predictions: (N,) classes, of what was made from it.
        network: one that ``float_row`` has measured.
        budget: with whose work folder it did.
    """
    tensors, _ = read_tensors(_path(network, budget).with_suffix(".safetensors"))
    return 100 * float((predictions == tensors["predictions"]).float().mean())


def _path(network: str, budget: Budget) -> Path:
    return budget.work / "cells" / f"{network.replace(':', '-')}-float.json"


def _measure(network: str, budget: Budget) -> None:
    target = Model(*load_network(network, budget.weights_dir))
    evaluation = evaluate(target, load_cifar10(budget.data, split="test"))
    row = {
        "model": network,
        "setting": "float",
        "images": "float",
        "seed": 0,
        "top1": evaluation.top1,
        "num_test": evaluation.num_images,
    }
    path = _path(network, budget)
    write_tensors(path.with_suffix(".safetensors"), {"predictions": evaluation.predictions})
    write_json(path, row)
