"""What identifies a network: weights and architecture."""

from __future__ import annotations

import hashlib

from torch import Tensor, nn

from mixmix.runtime.storage import sha256_of_tensors

__all__ = ["identity_of"]


def identity_of(module: nn.Module) -> dict[str, str]:
    """Hashes of all parameters and buffers, and of the layers with their attributes.

    The layers are those of PyTorch: classes of the caller may change without a change of what they
    compute, and what they print may differ between processes.
    """
    found = module.state_dict() | dict(module.named_buffers())  # also those that are not saved
    tensors = {name: each for name, each in found.items() if isinstance(each, Tensor)}
    layers = [
        f"{name}: {type(each).__name__}({each.extra_repr()})"
        for name, each in module.named_modules()
        if type(each).__module__.startswith("torch.nn.")
    ]
    return {
        "weights": sha256_of_tensors(tensors),
        "architecture": hashlib.sha256("\n".join(layers).encode()).hexdigest(),
    }
