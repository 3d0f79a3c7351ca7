"""Runs from the command line, and what they print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixmix.cli.execute import Outcome, execute
from mixmix.cli.inputs import with_spec
from mixmix.cli.run_file import Run
from mixmix.errors import InputError

__all__ = ["do", "do_run", "print_facts", "print_json"]


def do(given: Mapping[str, Any]) -> None:
    """Execute the run that options describe, and print its results.

    Args:
        given: a run, in plain types; with ``json``, and ``file`` for the path of the file to
            export.
    """
    content = with_spec(given)
    as_json, layers = content.pop("json"), content.pop("layers", False)
    export = content.get("export", {})
    if "layout" in export and not export.get("with_preprocessing"):
        raise InputError(
            "--layout is that of the bytes of --with-preprocessing; add it, or leave out --layout"
        )
    if "file" in content:
        path = Path(content.pop("file"))
        content["out"] = str(path.parent)
        content["export"] = {"file": path.name, **content.get("export", {})}
    do_run(Run.from_dict(content), as_json=as_json, layers=layers)


def do_run(run: Run, *, as_json: bool, by_section: bool = False, layers: bool = False) -> None:
    """Execute a run, write its file, and print its results.

    Args:
        run: the run.
        as_json: whether to print one JSON object instead of tables.
        by_section: whether the object has an entry for each section of the run.
        layers: whether to print a table of all layers, too.
    """
    from mixmix.report.card import write_card
    from mixmix.report.run_page import write_run_page
    from mixmix.runtime.distributed import is_main

    outcome = execute(run)
    if not is_main():
        return
    facts, command = outcome.facts, shlex.join(["mixmix", *sys.argv[1:]])
    if run.writes_files:
        run.write(command)
        if run.export is not None and outcome.compressed is not None:
            file = run.out / run.export.file
            write_card(run.card, file, facts, outcome.compressed, command=command)
        write_run_page(
            run.page, facts, command=command, images=outcome.images, compressed=outcome.compressed
        )
    if as_json and by_section:
        print_json({**({"run": str(run.path)} if run.writes_files else {}), **facts})
    elif as_json:
        print_json({name: value for section in facts.values() for name, value in section.items()})
    else:
        _print_summary(run, outcome, layers=layers)


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values as a table."""
    from mixmix.report.table import print_rows

    print_rows([{"field": name, "value": value} for name, value in facts.items()])


def _print_summary(run: Run, outcome: Outcome, *, layers: bool) -> None:
    from rich.console import Console

    from mixmix.report.evaluation import print_evaluation
    from mixmix.report.layers import print_layer_errors
    from mixmix.report.search import search_rows, sweep_rows
    from mixmix.report.sensitivity import print_sensitivity
    from mixmix.report.summary import summary_lines
    from mixmix.report.table import print_rows

    if outcome.sensitivity is not None:
        table, layer_bits = outcome.sensitivity
        print_sensitivity(table, Console(), layer_bits=layer_bits)
    if "sweep" in outcome.facts:
        print_rows(sweep_rows(outcome.facts["sweep"]))
    if layers:
        print_rows(search_rows(outcome.facts.get("export", {})))
    if layers and outcome.compressed is not None:
        print_rows(outcome.compressed.rows)
    if "evaluation" in outcome.facts:
        print_evaluation(outcome.facts["evaluation"])
    for section in ("layers", "evaluation"):
        if "layer_errors" in outcome.facts.get(section, {}):
            print_layer_errors(outcome.facts[section]["layer_errors"])
    for line in summary_lines(outcome.facts, run.written, _next(run)):
        print(line)


def _next(run: Run) -> str:
    """The command that most people type next."""
    if run.evaluation is not None and not (run.evaluation.explain and run.export is not None):
        return ""
    if run.model is not None and run.sweep is not None:
        network = shlex.quote(run.model.reference)
        return f"mixmix compress {network} -o FILE.onnx --bits BITS  # or --max-loss POINTS"
    if run.model is not None and run.export is not None:
        path = run.out / run.export.file
        if path.suffix == ".safetensors":
            return ""
        return f"mixmix evaluate {shlex.quote(str(path))} --data FOLDER  # of labeled photographs"
    if run.image_section is not None and run.zoo is not None:
        folder = shlex.quote(str(run.out / run.image_section.folder))
        return f"mixmix quantize -m {run.zoo.models[0]} --data {folder} --out FILE.onnx"
    return ""
