"""Methods that end within minutes on a CPU, also for costly networks."""

from __future__ import annotations

from dataclasses import replace

from mixmix.compress.method import Method
from mixmix.compress.recover.recover import as_recoveries
from mixmix.graph.costs import count_macs
from mixmix.models.model import Model

__all__ = ["affordable"]

# Multiplications of training: about ten minutes on two cores, and as long on a GPU for networks
# that need so many.
_BUDGET, _BUDGET_OF_GPUS = 3e13, 3e15
# A step has a forward pass of the teacher, and a forward and a backward pass of the student.
_PASSES = 4


def affordable(method: Method, model: Model) -> Method:
    """A method whose recoveries train a network for as many steps as take about ten minutes.

    Args:
        method: any; it is returned unchanged if it does not train or its steps are affordable.
        model: the network that it compresses.
    """
    recoveries = as_recoveries(getattr(method, "recovery", ()))
    budget = _BUDGET_OF_GPUS if model.device.type == "cuda" else _BUDGET
    macs, shorter = count_macs(model.module, model.spec.input_shape), []
    for recovery in recoveries:
        training = getattr(recovery, "training", None)
        cost = 0 if training is None else _PASSES * macs * training.batch_size * training.steps
        step = recovery.shortened(budget / cost) if cost > budget else recovery
        shorter += [] if step is None else [step]
    if tuple(shorter) == tuple(recoveries):
        return method
    return replace(method, recovery=tuple(shorter))  # type: ignore[type-var]
