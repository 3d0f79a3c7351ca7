"""Commands on files and networks: ``export``, ``evaluate``, ``zoo`` and ``demo``."""

from __future__ import annotations

from pathlib import Path

from mixmix.cli.options import Given, command
from mixmix.cli.process import prepare
from mixmix.cli.results import do, print_facts, print_json
from mixmix.cli.run_file import Run
from mixmix.errors import InputError

__all__ = ["compare", "demo", "evaluate", "export", "zoo_list", "zoo_show"]


@command(
    "export",
    """
    source! source: A model, or a folder of synthetic images.
    out!: ONNX file, or folder for PNG files.
    DEPLOYMENT
    COMMON
    NETWORK
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
    evaluation.model! network: A network, or an .onnx or .pt2 file of any exporter.
    evaluation.data
    evaluation.reference
    evaluation.explain
    COMMON
    NETWORK
    """,
)
def evaluate(given: Given) -> None:
    """Measure the accuracy of a network or an exported file on labeled images.

    Prints top-1 and top-5 accuracy, accuracy by class, and agreement with --reference.

    Example: mixmix evaluate small.onnx --data photographs/val --reference net.onnx
    """
    do(given)


@command(
    "compare",
    """
    source! a: A network, or an .onnx or .pt2 file of any exporter.
    other! b: What to compare with, usually the original.
    evaluation.data: Folder or .csv file of labeled images as for evaluate, or folder of images without labels (default: bundled images for networks of CIFAR-10, noise for others).
    COMMON
    NETWORK
    """,  # noqa: E501
)
def compare(given: Given) -> None:
    """Compare two files or networks: accuracy, agreement, size, latency, and their layers.

    Example: mixmix compare small.onnx net.onnx --data photographs/val
    """
    from mixmix.cli.inputs import images_to_compare, spec_fields, with_spec
    from mixmix.evaluate.comparison import compare as compare_models
    from mixmix.evaluate.predictor import Predictor, shared_spec
    from mixmix.report.comparison import print_comparison
    from mixmix.runtime.progress import showing

    given = with_spec(given)
    prepare(given["device"], given["threads"], distributed=False)
    data = given.get("evaluation", {}).get("data")
    fields = shared_spec((given["source"], given["other"]), spec_fields(given.get("spec")))
    spec = Predictor(given["source"], fields).spec
    images = images_to_compare(None if data is None else Path(data), spec)
    with showing("comparing") as advance:
        found = compare_models(
            given["source"], given["other"], images, spec=fields, on_progress=advance
        )
    if given["json"]:
        print_json(found.to_dict())
    else:
        print_comparison(found)


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
    NETWORK
    """,
)
def zoo_show(given: Given) -> None:
    """Show a network's spec, parameters and cost.

    Example: mixmix zoo show bundled:resnet
    """
    from mixmix import load
    from mixmix.cli.inputs import spec_fields, with_spec
    from mixmix.graph.costs import count_macs

    given = with_spec(given)
    model = load(given["source"], **spec_fields(given.get("spec")))
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
