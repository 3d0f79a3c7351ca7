"""Exported programs of PyTorch (``.pt2``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from mixmix.errors import DataError, InputError, translate_errors
from mixmix.graph.lift import lift_layers
from mixmix.graph.ops import has_kind
from mixmix.models.sources.graphs import (
    GraphSource,
    check_any_batch,
    check_single,
    describe_graph,
)
from mixmix.models.spec import ModelSpec
from mixmix.runtimes.program_safety import check_program

__all__ = ["ProgramSource"]


class ProgramSource(GraphSource):
    """The path of a ``.pt2`` file with a program for one batch of images."""

    def describe(self, name: str) -> dict[str, Any]:
        program, metadata = _load(Path(name))
        inputs, outputs = _ends(name, program)
        return describe_graph(name, metadata, inputs.meta["val"].shape, outputs.meta["val"].shape)

    def load(self, name: str, spec: ModelSpec) -> nn.Module:
        program, _ = _load(Path(name))
        _ends(name, program)
        module = program.module(check_guards=False)
        assert isinstance(module, fx.GraphModule)
        with translate_errors(f"{spec.name}: {name} cannot be converted to layers"):
            model = lift_layers(module).eval().requires_grad_(False)
        check_any_batch(model, spec)
        return model


def _load(path: Path) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    """A program and the metadata of mixmix in its file."""
    if not path.is_file():
        raise InputError(f"no exported program at {path}")
    check_program(path)
    metadata = {"mixmix.spec": ""}
    with translate_errors(f"PyTorch cannot load {path}", into=DataError):
        return torch.export.load(str(path), extra_files=metadata), metadata


def _ends(name: str, program: torch.export.ExportedProgram) -> tuple[fx.Node, fx.Node]:
    """The nodes of the images and of the logits.

    Raises:
        InputError: if there are several, or the program was exported in training mode.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    inputs, outputs = (
        [nodes[each] for each in names if each in nodes]
        for names in (program.graph_signature.user_inputs, program.graph_signature.user_outputs)
    )
    check_single(name, inputs, outputs)
    if any(has_kind(node, "dropout") and node.args[2] for node in nodes.values()):
        raise InputError(f"{name} was exported in training mode; export model.eval()")
    return inputs[0], outputs[0]
