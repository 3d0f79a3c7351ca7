"""Exported programs of PyTorch (``.pt2``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import fx, nn

from mixmix.errors import InputError, translate_errors
from mixmix.graph.lift import lift_layers
from mixmix.graph.ops import has_kind
from mixmix.models.sources.graphs import (
    GraphSource,
    check_any_batch,
    check_shape,
    check_single,
    describe_graph,
)
from mixmix.models.spec import ModelSpec
from mixmix.runtimes.program import Program, read_program

__all__ = ["ProgramSource"]


class ProgramSource(GraphSource):
    """The path of a ``.pt2`` file with a program for one batch of images."""

    def describe(self, name: str) -> dict[str, Any]:
        program = _read(name)
        return describe_graph(name, program.metadata, program.inputs[0], program.outputs[0])

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        program = _read(name)
        check_shape(name, program.inputs[0], spec)
        with translate_errors(f"{spec.name}: {name} cannot be converted to layers"):
            model = lift_layers(program.module).eval().requires_grad_(False)
        check_any_batch(model, spec)
        return model


def _read(name: str) -> Program:
    """A program that maps images to logits.

    Raises:
        InputError: if it has several inputs or outputs, or was exported in training mode.
    """
    program = read_program(Path(name))
    check_single(name, program.inputs, program.outputs)
    if program.changes or any(_trains(node) for node in program.module.graph.nodes):
        raise InputError(f"{name} was exported in training mode; export model.eval()")
    return program


def _trains(node: fx.Node) -> bool:
    """Whether a node drops values, or normalizes by the statistics of the batch."""
    position = 2 if has_kind(node, "dropout") else 5 if has_kind(node, "batch_norm") else 0
    return len(node.args) > position > 0 and node.args[position] is True
