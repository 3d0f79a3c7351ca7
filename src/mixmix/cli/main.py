"""The command line: parse, call, print. Errors are one line and exit code 2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mixmix.cli.common import (
    MODELS,
    Console,
    DeviceOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    load_images,
    prepare,
    progress_bar,
    report,
)
from mixmix.cli.distill import distill
from mixmix.cli.prune import prune
from mixmix.cli.quantize import quantize
from mixmix.cli.synthesize import generate, synthesize
from mixmix.errors import ExportError, InputError, RankError
from mixmix.runtime.openmp import sleep_while_waiting

app = typer.Typer(
    help="Compress pretrained vision models without their data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
zoo_app = typer.Typer(help="List and show pretrained networks.", no_args_is_help=True)
app.add_typer(zoo_app, name="zoo")


# typer exports its usage errors one by one; this is what they all are.
_UsageError: Any = typer.BadParameter.__mro__[2]


def run() -> None:
    """Run the command line and exit."""
    sleep_while_waiting()
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        _fail(error.format_message())
    except (InputError, ExportError, KeyError) as error:
        _fail(str(error.args[0] if error.args else error))
    except RankError as error:
        _fail_with_others(str(error))
    except MemoryError:
        _fail("out of memory; use fewer images, a smaller batch size or a smaller model")
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def _fail_with_others(message: str) -> None:
    from mixmix.runtime import distributed

    # The process that failed speaks for itself, and the main one for all others.
    if not distributed.is_main():
        sys.exit(2)
    _fail(message)


@zoo_app.command(
    "list",
    help="List the networks that travel with mixmix, and those of mixmix[imagenet].\n\n"
    "Example: mixmix zoo list --json",
)
def zoo_list(as_json: JsonOption = False) -> None:
    from mixmix.demo.bundled import bundled_names
    from mixmix.models import load_spec
    from mixmix.models.sources.imagenet import imagenet_names, is_installed

    references = [f"bundled:{name}" for name in bundled_names()]
    references += [f"imagenet:{name}" for name in imagenet_names()]
    rows = []
    for reference in references:
        kind, _, name = reference.partition(":")
        spec = load_spec(reference)
        rows.append(
            {
                "name": reference,
                "label_set": spec.label_set,
                "input_shape": list(spec.input_shape),
                "top1": spec.top1,
                "license": spec.license,
                "installed": kind == "bundled" or is_installed(name),
            }
        )
    report({"models": rows}, rows, as_json)


@zoo_app.command(
    "show", help="Show all that is known of a network.\n\nExample: mixmix zoo show bundled:resnet"
)
def zoo_show(
    model: Annotated[str, typer.Argument(help=f"{MODELS}.")],
    as_json: JsonOption = False,
) -> None:
    from mixmix.graph.costs import count_macs
    from mixmix.models import load

    teacher = load(model)
    content = teacher.spec.to_dict() | {
        "num_parameters": sum(p.numel() for p in teacher.module.parameters()),
        "num_macs": count_macs(teacher.module, teacher.spec.input_shape),
        "num_batch_norms": len(teacher.batch_norms),
    }
    report(content, [{"field": k, "value": str(v)} for k, v in content.items()], as_json)


app.command(
    help="Synthesize labeled images from pretrained networks.\n\n"
    "Interrupted, the same command goes on where it stopped. Processes started by torchrun share "
    "the work.\n\n"
    "Example: mixmix synthesize --zoo bundled:vgg --zoo bundled:vovnet --out images"
)(synthesize)


app.command(
    help="Make thousands of images by a generator that learns as it goes, a few steps each.\n\n"
    "For training on them; synthesize makes fewer and better ones. Interrupted, the same command "
    "goes on where it stopped.\n\n"
    "Example: mixmix generate --zoo bundled:vgg --zoo bundled:vovnet --num-images 10000 --out many"
)(generate)


app.command(
    help="Quantize a network on synthetic images and export it to ONNX, or to PyTorch's .pt2.\n\n"
    "Example: mixmix quantize -m bundled:resnet --data images --bits W4A8 --out resnet-w4a8.onnx"
)(quantize)


app.command(
    help="Prune a network on synthetic images, let it recover, and export it.\n\n"
    "Example: mixmix prune -m bundled:resnet --data images --sparsity 0.9 --out resnet.safetensors"
)(prune)


app.command(
    help="Train another network, from scratch and without data, to predict what a network does.\n\n"
    "Example: mixmix distill -m bundled:resnet --student bundled:mobilenetv2 --zoo bundled:resnet "
    "--zoo bundled:vgg --out student.onnx --checkpoints run"
)(distill)


@app.command(
    help="Export a float network to ONNX, or synthetic images to PNG folders (ImageFolder).\n\n"
    "Example: mixmix export images --out images-png"
)
def export(
    source: Annotated[
        str, typer.Argument(help=f"A folder of synthetic images, or a model: {MODELS}.")
    ],
    out: Annotated[Path, typer.Option(help="ONNX file, or folder for PNGs.")],
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    from mixmix.compress.method import Compressed
    from mixmix.export import export as run_export
    from mixmix.models import load

    prepare(device, None)
    content: dict[str, Any]
    if Path(source).is_dir():
        data = load_images(Path(source))
        content = {"out": str(data.export_image_folder(out)), "num_images": len(data)}
    else:
        _require_suffix(out)
        teacher = load(source, device="cpu")
        artifact = run_export(Compressed(teacher.module, teacher.spec), out)
        content = {"out": str(out), "size_bytes": artifact.size_bytes}
    report(content, [content], as_json)


@app.command(
    help="Measure the accuracy of a network or an ONNX file on labeled images.\n\n"
    "Example: mixmix evaluate resnet-w4a8.onnx --reference bundled:resnet"
)
def evaluate(
    model: Annotated[str, typer.Argument(help=f"{MODELS}. Files of graphs run as they are.")],
    data: Annotated[
        Path | None,
        typer.Option(help="CIFAR-10 folder (default: the bundled 1,000 test images)."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="A model whose predictions to compare with.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    from mixmix.demo.cifar10 import load_cifar10, load_evaluation_pack
    from mixmix.evaluate.evaluation import evaluate as run_evaluation
    from mixmix.models import load

    prepare(device, threads)

    def loaded(text: str) -> Any:
        return Path(text) if text.endswith((".onnx", ".pt2")) else load(text, device=device)

    images = load_evaluation_pack() if data is None else load_cifar10(data, split="test")
    with progress_bar("evaluating") as advance:
        evaluation = run_evaluation(
            loaded(model),
            images,
            reference=None if reference is None else loaded(reference),
            on_progress=advance,
        )
    content = {"model": model} | evaluation.to_dict()
    report(content, [{"field": k, "value": str(v)} for k, v in content.items()], as_json)


@app.command(
    help="The whole job on bundled networks: images, quantized models, a table and a page.\n\n"
    "Example: mixmix demo --out mixmix-demo --compare"
)
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("mixmix-demo"),
    compare: Annotated[
        bool, typer.Option("--compare", help="Add rows of other images at equal budget.")
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    from mixmix.demo.demo import run_demo
    from mixmix.report.table import print_results

    prepare(device, threads)
    with progress_bar("demo") as advance:
        result = run_demo(out, seed=seed, device=device, compare=compare, on_progress=advance)
    if as_json:
        report(result, [], as_json)
    else:
        console = Console()
        print_results(result["rows"], console)
        console.print(f"\nimages, models and the page of the run: {out / 'index.html'}")


def _require_suffix(out: Path) -> None:
    if out.suffix != ".onnx":
        raise InputError(f"--out must name an .onnx file, got {out}")


if __name__ == "__main__":
    run()
