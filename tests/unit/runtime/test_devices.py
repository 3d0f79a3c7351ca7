"""A device that cannot be used is refused in one line, which names those that exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mixmix import Zoo, estimate_accuracy, evaluate, load
from mixmix.errors import InputError
from mixmix.runtime.devices import available_devices, checked_device

IMAGES, LABELS = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)


def test_the_cpu_exists() -> None:
    assert available_devices()[0] == "cpu"
    assert checked_device("cpu") == checked_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:99", "meta", "gpu", "", None, 2.5])
def test_another_does_not(device: Any) -> None:
    with pytest.raises(InputError, match=r"device .* one of cpu") as raised:
        checked_device(device)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "call",
    [
        lambda device: load("bundled:vgg", device=device),
        lambda device: Zoo.load(["bundled:vgg"], device=device),
        lambda device: evaluate("bundled:vgg", (IMAGES, LABELS), device=device),
        lambda device: estimate_accuracy("bundled:vgg", "bundled:vgg", IMAGES, device=device),
    ],
    ids=["load", "zoo", "evaluate", "estimate"],
)
def test_every_function_with_a_device_checks_it(call: Callable[[str], object]) -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(InputError, match=f"device '{device}' cannot be used: .*one of cpu"):
            call(device)
