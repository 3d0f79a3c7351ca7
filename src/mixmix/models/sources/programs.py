"""Exported programs of PyTorch (``.pt2``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from mixmix.errors import DataError, InputError, first_line
from mixmix.graph.lift import lift_layers
from mixmix.graph.ops import has_kind
from mixmix.models.sources.graphs import check_any_batch, describe_shapes, fields_of_notes
from mixmix.models.sources.source import Source
from mixmix.models.spec import ModelSpec
from mixmix.runtimes.program_safety import check_program

__all__ = ["ProgramSource"]


class ProgramSource(Source):
    """The path of a ``.pt2`` file with one program of one batch of images."""

    adapts = False
    has_own_weights = True

    def describe(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        program, notes = _load(Path(name))
        inputs, outputs = _ends(name, program)
        known = fields_of_notes(name, notes)
        return known | describe_shapes(inputs.meta["val"].shape, outputs.meta["val"].shape)

    def build(self, name: str, spec: ModelSpec) -> nn.Module:
        raise InputError(
            f"{spec.name}: {name} is a trained program; fresh weights need an architecture, such "
            "as timm:NAME or python:MODULE:CALLABLE"
        )

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        program, _ = _load(Path(name))
        _ends(name, program)
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        try:
            model = lift_layers(module).eval().requires_grad_(False)
        except Exception as error:  # operations that no layer can be made of
            raise InputError(
                f"{spec.name}: {name} cannot be made a network again: {first_line(error)}"
            ) from error
        check_any_batch(model, spec)
        return model


def _load(path: Path) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    """A program and what mixmix noted in its file."""
    if not path.is_file():
        raise InputError(f"no exported program at {path}")
    check_program(path)
    notes = {"mixmix.spec": ""}
    try:
        program = torch.export.load(str(path), extra_files=notes)
    except Exception as error:  # a damaged archive raises many kinds
        raise DataError(f"PyTorch cannot load {path}: {first_line(error)}") from error
    return program, notes


def _ends(name: str, program: torch.export.ExportedProgram) -> tuple[fx.Node, fx.Node]:
    """The nodes of the images and of the logits.

    Raises:
        InputError: if there are several, or the program is one of training.
    """
    signature = program.graph_signature
    inputs, outputs = signature.user_inputs, signature.user_outputs
    nodes = {node.name: node for node in program.graph.nodes}
    if len(inputs) != 1 or len(outputs) != 1 or not {*inputs, *outputs} <= set(nodes):
        raise InputError(
            f"{name} takes {len(inputs)} inputs and gives {len(outputs)} outputs, expected one "
            "batch of images and its logits"
        )
    if any(has_kind(node, "dropout") and node.args[2] for node in nodes.values()):
        raise InputError(f"{name} was exported in training mode; export model.eval()")
    return nodes[str(inputs[0])], nodes[str(outputs[0])]
