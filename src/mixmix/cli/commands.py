"""Commands that do not compress: runs, images, files, the zoo, the demo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mixmix.cli import run_file as runs
from mixmix.cli.command import COMMON, JSON, ZOO, Command, do, do_run, out
from mixmix.cli.options import Fields, Given, Option
from mixmix.cli.output import print_facts, print_json, print_table
from mixmix.cli.process import prepare, progress_bar
from mixmix.errors import InputError

__all__ = ["IMAGE_COMMANDS", "OTHER_COMMANDS"]


def _run(given: Given) -> None:
    run = runs.Run.read(given["file"])
    if given["folder"] is not None:
        run = replace(run, out=given["folder"])
    do_run(run, as_json=given["json"], by_section=True)


RUN = Command(
    "run",
    "Execute a run that a TOML file describes: synthesis, compression, export, evaluation.\n\n"
    "Other commands write such a file next to their results.",
    "mixmix run results/run.toml --out again",
    (
        Option("file", Path, "TOML file of a run.", ..., "argument"),
        Option(
            "folder", Path | None, "Folder for the results (default: as in FILE).", None, "--out"
        ),
        JSON,
    ),
    _run,
)


def _synthesize(given: Given) -> None:
    scales = given.fields("synthesis").get("scales")
    grown = {"scales": [*scales, 1.0]} if scales and scales[-1] < 1 else {}
    do(given, synthesis={"folder": ".", **grown})


SYNTHESIZE = Command(
    "synthesize",
    "Synthesize labeled images from pretrained networks.\n\n"
    "To resume an interrupted run, repeat the command. Processes started by torchrun split the "
    "work.",
    "mixmix synthesize --zoo bundled:vgg --zoo bundled:vovnet --out images",
    (
        ZOO,
        Fields("run", runs.Run, "out!"),
        Fields(
            "synthesis",
            "SynthesisSettings",
            "num_images -n, iterations, batch_size, members_per_step, scales --scale",
        ),
        Fields("synthesis", runs.SynthesisSection, "recipe, start, memory_gib"),
        *COMMON,
    ),
    _synthesize,
)

GENERATE = Command(
    "generate",
    "Generate thousands of images, with a few optimizer steps for each batch.\n\n"
    "Use them for training; synthesize makes fewer but better images. To resume an interrupted "
    "run, repeat the command.",
    "mixmix generate --zoo bundled:vgg --zoo bundled:vovnet -n 10000 --out many",
    (
        ZOO,
        Fields("run", runs.Run, "out!"),
        Fields("generation", runs.GenerationSection, "num_images -n, warmup_rounds"),
        Fields("generation", "AmortizedSettings", "steps, batch_size"),
        *COMMON,
    ),
    lambda given: do(given, generation={"folder": "."}),
)


def _export(given: Given) -> None:
    path: Path = given["out"]
    if Path(given["source"]).is_dir():
        images = {"folders": [given["source"]]}
        do(given, out=str(path), images=images, export={"file": "."})
    elif path.suffix == ".onnx":
        do(given, model={"reference": given["source"]})
    else:
        raise InputError(f"--out must name an .onnx file, got {path}")


EXPORT = Command(
    "export",
    "Export a float network to ONNX, or synthetic images to one folder of PNG files per class.",
    "mixmix export images --out images-png",
    (
        Option("source", str, "A model, or a folder of synthetic images.", ..., "argument"),
        out("ONNX file, or folder for PNG files."),
        *COMMON,
    ),
    _export,
)

EVALUATE = Command(
    "evaluate",
    "Measure the accuracy of a network or an exported file on labeled images.",
    "mixmix evaluate resnet-w4a8.onnx --reference bundled:resnet",
    (
        Option("model", str, "A model, or an exported .onnx or .pt2 file.", ..., "argument"),
        Fields("evaluation", runs.EvaluationSection, "data, reference"),
        *COMMON,
    ),
    lambda given: do(given, evaluation={"model": given["model"]}),
)


def _list(given: Given) -> None:
    from mixmix.demo.bundled import bundled_names
    from mixmix.models import load_spec
    from mixmix.models.sources.imagenet import imagenet_names, is_installed

    installed = {f"bundled:{name}": True for name in bundled_names()}
    installed |= {f"imagenet:{name}": is_installed(name) for name in imagenet_names()}
    columns = ("label_set", "input_shape", "top1", "license")
    rows = []
    for name, is_there in installed.items():
        spec = load_spec(name).to_dict()
        rows.append({"name": name, **{key: spec[key] for key in columns}, "installed": is_there})
    if given["json"]:
        print_json({"models": rows})
    else:
        print_table(rows)


ZOO_LIST = Command(
    "zoo list",
    "List the networks that come with mixmix and with its extra 'imagenet'.",
    "mixmix zoo list --json",
    (JSON,),
    _list,
)


def _show(given: Given) -> None:
    from mixmix import load
    from mixmix.graph.costs import count_macs

    model = load(given["model"])
    facts = model.spec.to_dict() | {
        "num_parameters": sum(p.numel() for p in model.module.parameters()),
        "num_macs": count_macs(model.module, model.spec.input_shape),
        "num_batch_norms": len(model.batch_norms),
    }
    (print_json if given["json"] else print_facts)(facts)


ZOO_SHOW = Command(
    "zoo show",
    "Show a network's spec, parameters and cost.",
    "mixmix zoo show bundled:resnet",
    (Option("model", str, "A model, named like a --model.", ..., "argument"), JSON),
    _show,
)


def _demo(given: Given) -> None:
    from rich.console import Console

    from mixmix.demo.demo import run_demo
    from mixmix.report.table import print_results

    folder, process = given["folder"], runs.Run.from_dict(given.fields("run"))
    seed, device = process.seed, process.device
    prepare(device, process.threads, distributed=False)
    with progress_bar("demo") as advance:
        result = run_demo(
            folder, seed=seed, device=device, compare=given["compare"], on_progress=advance
        )
    if given["json"]:
        print_json(result)
        return
    print_results(result["rows"], Console())
    Console().print(f"\nimages, models and the report: {folder / 'index.html'}")


DEMO = Command(
    "demo",
    "Run the whole method on bundled networks: images, quantized models, a table and a report.",
    "mixmix demo --out mixmix-demo --compare",
    (
        Option("folder", Path, "Folder for the results.", Path("mixmix-demo"), "--out"),
        Option("compare", bool, "Add results for other images of equal cost.", False),
        *COMMON,
    ),
    _demo,
)

IMAGE_COMMANDS = (RUN, SYNTHESIZE, GENERATE)
OTHER_COMMANDS = (EXPORT, EVALUATE, ZOO_LIST, ZOO_SHOW, DEMO)
