"""Runs from the command line, and what they print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixmix._display import printable
from mixmix.cli.execute import Outcome, execute
from mixmix.cli.inputs import with_spec
from mixmix.cli.run_file import Run

__all__ = ["do", "do_run", "print_facts", "print_json"]


def do(given: Mapping[str, Any]) -> None:
    """Execute the run that options describe, and print its results.

    Args:
        given: a run, in plain types; with ``json``, and ``file`` for the path of the file to
            export.
    """
    content = with_spec(given)
    as_json = content.pop("json")
    if "file" in content:
        path = Path(content.pop("file"))
        content["out"] = str(path.parent)
        content["export"] = {"file": path.name, **content.get("export", {})}
    do_run(Run.from_dict(content), as_json=as_json)


def do_run(run: Run, *, as_json: bool, by_section: bool = False) -> None:
    """Execute a run, write its file, and print its results.

    Args:
        run: the run.
        as_json: whether to print one JSON object instead of tables.
        by_section: whether the object has an entry for each section of the run.
    """
    from mixmix.runtime.distributed import is_main

    outcome = execute(run)
    if not is_main():
        return
    if run.writes_files:
        run.write(shlex.join(["mixmix", *sys.argv[1:]]))
    facts = outcome.facts
    if as_json and by_section:
        print_json({**({"run": str(run.path)} if run.writes_files else {}), **facts})
    elif as_json:
        print_json({name: value for section in facts.values() for name, value in section.items()})
    else:
        _print_tables(outcome)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values as a table."""
    from mixmix.report.table import print_rows

    print_rows([{"field": name, "value": value} for name, value in facts.items()])


def _print_tables(outcome: Outcome) -> None:
    from rich.console import Console

    from mixmix.report.evaluation import print_evaluation
    from mixmix.report.layers import print_layer_errors
    from mixmix.report.sensitivity import print_sensitivity
    from mixmix.report.table import print_rows

    export, parts = outcome.facts.get("export", {}), []
    if "size_bytes" in export:
        parts.append(f"wrote {export['out']} ({export['size_bytes']:,} bytes)")
    elif "out" in export:
        parts.append(f"wrote {export['out']}")
    if estimate := export.get("estimate"):
        low, high = estimate["predicted_drop_interval"]
        parts.append(
            f"estimated accuracy loss {estimate['predicted_drop']:.1f} points ({low:.1f} to "
            f"{high:.1f}), agreement {estimate['agreement']:.1f}%"
        )
    if parts:
        print(printable("; ".join(parts)))
    if outcome.sensitivity is not None:
        table, layer_bits = outcome.sensitivity
        print_sensitivity(table, Console(), layer_bits=layer_bits)
    if outcome.compressed is not None:
        print_rows(outcome.compressed.rows)
    print_facts(outcome.facts.get("images", {}))
    if "evaluation" in outcome.facts:
        print_evaluation(outcome.facts["evaluation"])
    for section in ("layers", "evaluation"):
        if "layer_errors" in outcome.facts.get(section, {}):
            print_layer_errors(outcome.facts[section]["layer_errors"])
