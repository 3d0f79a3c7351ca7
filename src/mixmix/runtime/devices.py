"""The devices that PyTorch can compute on."""

from __future__ import annotations

import torch

from mixmix.errors import InputError, translate_errors

__all__ = ["available_devices", "checked_device"]


def available_devices() -> list[str]:
    """Names such as ``cpu`` and ``cuda:0``."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = torch.accelerator.device_count() if kind else 0
    return ["cpu", *(f"{kind}:{index}" for index in range(count))]


def checked_device(device: str | torch.device) -> torch.device:
    """The device, after a number was written to it and read.

    Raises:
        InputError: if it does not exist or cannot be used.
    """
    if device is None:
        raise InputError(f"device must be one of {', '.join(available_devices())}, got None")
    advice = f"choose one of {', '.join(available_devices())}"
    with translate_errors(f"device {str(device)!r} cannot be used", advice):
        torch.zeros(1, device=device).item()
        return torch.device(device)
