"""What commands print: tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mixmix._display import printable

if TYPE_CHECKING:
    from mixmix.cli.execute import Outcome
    from mixmix.compress.method import LayerRecord

__all__ = ["print_facts", "print_json", "print_outcome", "print_table"]

_WIDE = 1000  # characters


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values as a table."""
    print_table([{"field": name, "value": value} for name, value in facts.items()])


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows, whose keys are the titles of the columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        # Names cut by an ellipsis could not be copied.
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text("–" if value is None else _text(value)) for value in row.values()))
    # Lines for programs, and for files, are not folded.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDE
    Console(width=width).print(table)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def print_outcome(outcome: Outcome, *, as_json: bool, by_section: bool = False) -> None:
    """Print the results of a run.

    Args:
        outcome: results of the run.
        as_json: whether to print one JSON object instead of tables.
        by_section: whether the object has an entry for each section of the run.
    """
    sections = _sections(outcome)
    if as_json:
        flat = {name: value for facts in sections.values() for name, value in facts.items()}
        record = {"run": str(outcome.run.path)} if outcome.run.writes_files else {}
        print_json(record | sections if by_section else flat)
        return
    if outcome.compressed is not None:
        _print_compressed(outcome)
    if outcome.image_folder is not None:
        print(f"wrote {outcome.image_folder}")
    print_facts({**sections.get("images", {}), **sections.get("evaluation", {})})


def _sections(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """The results of a run as plain JSON types, by section."""
    sections = {}
    if outcome.images is not None and (outcome.run.image_section or outcome.model is None):
        sections["images"] = _image_facts(outcome)
    if outcome.compressed is not None:
        sections["export"] = _file_facts(outcome)
    if outcome.image_folder is not None:
        sections["export"] = {"out": str(outcome.image_folder)}
    if outcome.run.evaluation is not None and outcome.evaluation is not None:
        model = outcome.run.evaluation.model
        sections["evaluation"] = {"model": model} if model else {}
        sections["evaluation"] |= outcome.evaluation.to_dict()
    return sections


def _image_facts(outcome: Outcome) -> dict[str, Any]:
    from mixmix.data.image_set import label_agreement

    images, section = outcome.images, outcome.run.image_section
    assert images is not None
    facts: dict[str, Any] = (
        {} if section is None else {"out": str(outcome.run.out / section.folder)}
    )
    facts["num_images"] = len(images)
    facts["label_agreement"] = label_agreement(images.soft_labels, images.labels)
    if outcome.contact_sheet is not None:
        facts["contact_sheet"] = str(outcome.contact_sheet)
    return facts


def _file_facts(outcome: Outcome) -> dict[str, Any]:
    """Facts about the compressed model and its file."""
    from mixmix.compress.prune.weights.sparsity import sparsity_of

    compressed, artifact, model = outcome.compressed, outcome.artifact, outcome.model
    assert compressed is not None and model is not None
    facts: dict[str, Any] = {"model": compressed.spec.name, "teacher": model.spec.name}
    if outcome.methods:
        facts["setting"] = " + ".join(method.setting for method in outcome.methods)
        facts["sparsity"] = sparsity_of(compressed.module).total
    if artifact is not None:
        facts["out"] = str(artifact.path)
        facts["size_bytes"] = artifact.size_bytes
        facts["agreement_with_pytorch"] = artifact.agreement
    facts["estimate"] = None if outcome.estimate is None else outcome.estimate.to_dict()
    facts["layers"] = [record.to_dict() for record in compressed.records]
    return facts


def _print_compressed(outcome: Outcome) -> None:
    """Print a line on the file, sensitivities of layers, and a row for each layer."""
    from rich.console import Console

    from mixmix.report.sensitivity import print_sensitivity

    compressed, artifact, estimate = outcome.compressed, outcome.artifact, outcome.estimate
    assert compressed is not None
    parts = [] if artifact is None else [f"wrote {artifact.path} ({artifact.size_bytes:,} bytes)"]
    if estimate is not None:
        low, high = estimate.predicted_drop_interval
        parts.append(
            f"estimated accuracy loss {estimate.predicted_drop:.1f} points ({low:.1f} to "
            f"{high:.1f}), agreement {estimate.agreement:.1f}%"
        )
    print("; ".join(parts))
    if outcome.sensitivity is not None:
        table, layer_bits = outcome.sensitivity
        print_sensitivity(table, Console(), layer_bits=layer_bits)
    print_table(_layer_rows(compressed.records))


def _layer_rows(records: Sequence[LayerRecord]) -> list[dict[str, Any]]:
    """Records as rows of a table, without columns that are empty."""
    rows = [record.to_dict() for record in records]
    for row in rows:
        for name in ("in_channels", "out_channels"):
            if row[name] is not None:
                row[name] = "→".join(map(str, dict.fromkeys(row[name])))
    optional = ("sparsity", "in_channels", "out_channels")
    empty = {name for name in optional if all(row[name] is None for row in rows)}
    return [{name: value for name, value in row.items() if name not in empty} for row in rows]
