"""``mixmix export`` and ``mixmix evaluate``: files of networks and images, and their accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixmix.cli.command import JSON, PROCESS, Command, do, file_out, written_as
from mixmix.cli.options import Fields, Given, Option
from mixmix.cli.output import report
from mixmix.errors import InputError

__all__ = ["EVALUATE", "EXPORT"]


def _export(given: Given) -> None:
    source, out = given["source"], given["out"]
    sections: dict[str, Any]
    if Path(source).is_dir():
        sections = {"out": str(out), "images": {"folders": [source]}, "export": {"file": "."}}
    elif out.suffix != ".onnx":
        raise InputError(f"--out must name an .onnx file, got {out}")
    else:
        sections = {"model": {"reference": source}, **written_as(out)}
    outcome = do(given, sections)
    content: dict[str, Any] = {"out": str(out)}
    if outcome.artifact is not None:
        content["size_bytes"] = outcome.artifact.size_bytes
    elif outcome.images is not None:
        content["num_images"] = len(outcome.images)
    report(content, [content], given["json"])


def _evaluate(given: Given) -> None:
    section = {"model": given["model"], **given.fields("evaluation")}
    outcome = do(given, {"evaluation": section}, record=False)
    assert outcome.evaluation is not None
    content = {"model": given["model"]} | outcome.evaluation.to_dict()
    report(content, [{"field": k, "value": str(v)} for k, v in content.items()], given["json"])


EXPORT = Command(
    "export",
    help="Export a float network to ONNX, or synthetic images to one folder of PNG files per "
    "class.",
    example="mixmix export images --out images-png",
    options=(
        Option(
            "source",
            str,
            "A folder of synthetic images, or a model as in other commands.",
            ...,
            ("argument",),
        ),
        file_out("ONNX file, or folder for PNG files."),
        PROCESS,
        JSON,
    ),
    call=_export,
)

EVALUATE = Command(
    "evaluate",
    help="Measure the accuracy of a network or an exported file on labeled images.",
    example="mixmix evaluate resnet-w4a8.onnx --reference bundled:resnet",
    options=(
        Option(
            "model",
            str,
            "A model as in other commands; .onnx and .pt2 files run as they are.",
            ...,
            ("argument",),
        ),
        Fields("evaluation", "mixmix.cli.run_file:EvaluationSection", "data, reference"),
        PROCESS,
        JSON,
    ),
    call=_evaluate,
)
