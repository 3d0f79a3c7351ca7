"""Commands on files and networks: ``export``, ``evaluate``, ``zoo`` and ``demo``."""

from __future__ import annotations

from pathlib import Path

from mixmix.cli.options import Given, command
from mixmix.cli.process import prepare
from mixmix.cli.results import do, print_facts, print_json
from mixmix.cli.run_file import Run
from mixmix.errors import InputError

__all__ = ["demo", "evaluate", "export", "zoo_list", "zoo_show"]


@command(
    "export",
    """
    source! source: A model, or a folder of synthetic images.
    out!: ONNX file, or folder for PNG files.
    DEPLOYMENT
    COMMON
    """,
)
def export(given: Given) -> None:
    """Export a float network to ONNX, or synthetic images to one folder of PNG files per class.

    Example: mixmix export images --out images-png
    """
    source = given.pop("source")
    if Path(source).is_dir():
        do(given | {"images": {"folders": [source]}, "export": {"file": "."}})
    elif given["out"].endswith(".onnx"):
        do(given | {"model": {"reference": source}, "file": given["out"]})
    else:
        raise InputError(f"--out must name an .onnx file, got {given['out']}")


@command(
    "evaluate",
    """
    evaluation.model! model: A model, or an exported .onnx or .pt2 file.
    evaluation.data
    evaluation.reference
    COMMON
    """,
)
def evaluate(given: Given) -> None:
    """Measure the accuracy of a network or an exported file on labeled images.

    Example: mixmix evaluate resnet-w4a8.onnx --reference bundled:resnet
    """
    do(given)


@command("zoo list", "json")
def zoo_list(given: Given) -> None:
    """List the networks that come with mixmix and with its extra 'imagenet'.

    Example: mixmix zoo list --json
    """
    from mixmix.demo.bundled import bundled_names
    from mixmix.models import load_spec
    from mixmix.models.sources.imagenet import imagenet_names, is_installed
    from mixmix.report.table import print_rows

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
        print_rows(rows)


@command(
    "zoo show",
    """
    source! model: A model, named like a --model.
    json
    """,
)
def zoo_show(given: Given) -> None:
    """Show a network's spec, parameters and cost.

    Example: mixmix zoo show bundled:resnet
    """
    from mixmix import load
    from mixmix.graph.costs import count_macs

    model = load(given["source"])
    facts = model.spec.to_dict() | {
        "num_parameters": sum(p.numel() for p in model.module.parameters()),
        "num_macs": count_macs(model.module, model.spec.input_shape),
        "num_batch_norms": len(model.batch_norms),
    }
    (print_json if given["json"] else print_facts)(facts)


@command(
    "demo",
    """
    out: Folder for the results (default: mixmix-demo).
    compare
    COMMON
    """,
)
def demo(given: Given) -> None:
    """Run the whole method on bundled networks: images, quantized models, a table and a report.

    Example: mixmix demo --out mixmix-demo --compare
    """
    from rich.console import Console

    from mixmix.demo.demo import run_demo
    from mixmix.report.table import print_results
    from mixmix.runtime.progress import showing

    out, device = Path(given["out"] or "mixmix-demo"), given["device"]
    prepare(device, given["threads"], distributed=False)
    with showing("demo") as advance:
        result = run_demo(
            out,
            seed=Run(seed=given["seed"]).seed,
            device=device,
            compare=given["compare"],
            on_progress=advance,
        )
    if given["json"]:
        print_json(result)
        return
    print_results(result["rows"], Console())
    Console().print(f"\nimages, models and the report: {out / 'index.html'}")
