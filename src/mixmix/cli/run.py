"""``mixmix run`` and ``mixmix demo``: whole runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mixmix.cli.command import JSON, PROCESS, Command, do, do_run
from mixmix.cli.execute import Outcome
from mixmix.cli.options import Fields, Given, Option
from mixmix.cli.output import file_content, file_title, images_content, layer_rows, report
from mixmix.cli.run_file import Run

__all__ = ["DEMO", "RUN"]


def _run(given: Given) -> None:
    run = Run.read(given["file"])
    if given["out"] is not None:
        run = replace(run, out=given["out"])
    outcome = do_run(run)
    if not outcome.is_main:
        return
    if outcome.demo is not None:
        _report_demo(outcome.demo, run.out, given["json"])
        return
    content = _content(outcome)
    if given["json"]:
        report({"run": str(run.record), **content}, [], True)
        return
    facts = {**content.get("images", {}), **content.get("evaluation", {})}
    if outcome.compressed is not None:
        report({}, layer_rows(outcome.compressed), False, title=file_title(outcome))
    report({}, [{"field": k, "value": str(v)} for k, v in facts.items()], False)


def _content(outcome: Outcome) -> dict[str, Any]:
    """The results of a run by its sections."""
    content: dict[str, Any] = {}
    if outcome.images is not None:
        content["images"] = images_content(outcome)
    if outcome.compressed is not None:
        content["export"] = file_content(outcome)
    if outcome.image_folder is not None:
        content["export"] = {"out": str(outcome.image_folder)}
    if outcome.evaluation is not None:
        content["evaluation"] = outcome.evaluation.to_dict()
    return content


def _demo(given: Given) -> None:
    outcome = do(given, {"out": str(given["out"]), "demo": given.fields("demo")})
    assert outcome.demo is not None
    _report_demo(outcome.demo, given["out"], given["json"])


def _report_demo(result: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        report(result, [], as_json)
        return
    from rich.console import Console

    from mixmix.report.table import print_results

    console = Console()
    print_results(result["rows"], console)
    console.print(f"\nimages, models and the report: {out / 'index.html'}")


RUN = Command(
    "run",
    help="Do a whole run that a TOML file describes: synthesis, compression, export, "
    "evaluation.\n\n"
    "Other commands write such a file beside their results.",
    example="mixmix run results/run.toml --out again",
    options=(
        Option("file", Path, "TOML file of a run.", ..., ("argument",)),
        Option("out", Path | None, "Folder for the results, instead of that of the file."),
        JSON,
    ),
    call=_run,
)

DEMO = Command(
    "demo",
    help="Run the whole method on bundled networks: images, quantized models, a table and a "
    "report.",
    example="mixmix demo --out mixmix-demo --compare",
    options=(
        Option("out", Path, "Folder for the results.", Path("mixmix-demo")),
        Fields("demo", "mixmix.cli.run_file:DemoSection", "compare --compare"),
        PROCESS,
        JSON,
    ),
    call=_demo,
)
