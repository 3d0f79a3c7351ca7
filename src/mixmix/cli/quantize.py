"""``mixmix quantize``: from options to methods, and from a compressed model to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixmix.cli.common import (
    Console,
    DeviceOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    ThreadsOption,
    prepare,
    progress_bar,
)
from mixmix.cli.compressing import (
    DataOption,
    HeldOutOption,
    Images,
    format_of,
    option,
    quantization,
    report_file,
)
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix.compress.method import Compressed, Method
    from mixmix.compress.quantize.quantize import Quantize

__all__ = ["quantize"]

_FORMATS = {".onnx": "onnx", ".pt2": "pt2e"}
_GRID, _LEARNING, _BUDGET, _TRAINING = "Grid", "Reconstruction", "Mixed precision", "Training"


def quantize(
    model: ModelArgument,
    data: DataOption,
    out: Annotated[Path, typer.Option(help="File to write: .onnx, or .pt2 for PyTorch.")],
    optimize_for: Annotated[
        str, typer.Option(help="size or speed, where an .onnx file has 4 bits or fewer.")
    ] = "size",
    bits: Annotated[str, typer.Option(help="W<weights>A<activations>, 2 to 8 bits.")] = "W8A8",
    held_out: HeldOutOption = 0,
    all_layers: Annotated[
        bool, option("The first and last layer have no 8 bits either.", panel=_GRID)
    ] = False,
    per_tensor: Annotated[
        bool, option("One scale for all weights of a layer.", "--per-tensor", panel=_GRID)
    ] = False,
    affine: Annotated[
        bool, option("Weights with zero points.", "--affine-weights", panel=_GRID)
    ] = False,
    symmetric: Annotated[
        bool, option("No free zero points.", "--symmetric-activations", panel=_GRID)
    ] = False,
    equalize: Annotated[
        bool | None,
        option(
            "Cross-layer equalization (default: around depthwise layers).",
            "--equalize/--no-equalize",
            panel=_GRID,
        ),
    ] = None,
    correct_bias: Annotated[
        bool | None,
        option(
            "Bias correction (default: where a depthwise layer needs it).",
            "--correct-bias/--no-correct-bias",
            panel=_GRID,
        ),
    ] = None,
    iterations: Annotated[
        int | None, option("Steps per unit; 0 rounds to nearest.", panel=_LEARNING)
    ] = None,
    loss: Annotated[
        str | None, option("mse, fisher or output (default: mse).", panel=_LEARNING)
    ] = None,
    views: Annotated[
        int | None,
        option("Images or mixtures to reconstruct on; 0: images alone.", panel=_LEARNING, min=0),
    ] = None,
    memory: Annotated[
        float | None,
        option(
            "GiB for activations; the rest is on disk (default: half).",
            "--memory-gib",
            panel=_LEARNING,
        ),
    ] = None,
    max_size: Annotated[
        float | None,
        option("Size as a share of float32; bits are chosen by layer.", panel=_BUDGET),
    ] = None,
    max_bitops: Annotated[
        float | None, option("Bit operations as a share of float32.", panel=_BUDGET)
    ] = None,
    choices: Annotated[
        str | None,
        option("Bits to choose from, as in W2A8,W4A8,W8A8.", panel=_BUDGET),
    ] = None,
    sensitivity: Annotated[
        Path | None, option("JSON file for the table of sensitivities.", panel=_BUDGET)
    ] = None,
    train: Annotated[
        int,
        option("Steps of quantization-aware training.", "--train", panel=_TRAINING, min=0),
    ] = 0,
    checkpoints: Annotated[
        Path | None, option("Folder from which training goes on.", panel=_TRAINING)
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quantize a network and write it; the command line says what each option is."""
    from dataclasses import replace

    from mixmix.compress.compress import compress
    from mixmix.compress.quantize.quantize import Quantize
    from mixmix.compress.quantize.reconstruction import ReconstructionSettings
    from mixmix.export import export
    from mixmix.models import load

    prepare(device, threads)
    file_format = format_of(out, _FORMATS)
    given: dict[str, Any] = {"iterations": iterations, "loss": loss}
    reconstruction = replace(
        ReconstructionSettings(), **{k: v for k, v in given.items() if v is not None}
    )
    base = Quantize(
        bits,
        first_last_bits=None if all_layers else 8,
        per_channel=not per_tensor,
        symmetric_weights=not affine,
        symmetric_activations=symmetric,
        equalize=equalize,
        correct_bias=correct_bias,
        views=Quantize.views if views is None else views,
        memory_gib=memory,
        reconstruction=reconstruction,
    )
    budget = {"max_size_ratio": max_size, "max_bitops_ratio": max_bitops}
    method = _method(base, budget, choices, sensitivity, train, checkpoints)
    images = Images.load(data, held_out=held_out)
    teacher = load(model, device=device)
    with progress_bar("quantizing") as advance:
        compressed = compress(teacher, images.used, method, seed=seed, on_progress=advance)
    artifact = export(
        compressed,
        out,
        format=file_format,
        optimize_for=optimize_for,
        probe=images.probe,
    )
    estimate = images.estimate(artifact, teacher)
    _show_sensitivity(compressed, sensitivity, as_json=as_json)
    content = {"setting": base.bits}
    title = f"wrote {out}"
    report_file(content, compressed, artifact, estimate, title=title, as_json=as_json)


def _method(
    base: Quantize,
    budget: Mapping[str, float | None],
    choices: str | None,
    sensitivity: Path | None,
    train: int,
    checkpoints: Path | None,
) -> Method:
    from mixmix.compress.quantize.mixed_precision import MixedPrecision

    mixed = any(value is not None for value in budget.values())
    if mixed and train:
        raise InputError(
            "--train goes with one number of bits for all layers; leave out --max-size and "
            "--max-bitops, or --train"
        )
    if choices is not None and not mixed:
        raise InputError("--choices needs a budget; give --max-size or --max-bitops")
    if sensitivity is not None and not mixed:
        raise InputError("--sensitivity needs a budget; give --max-size or --max-bitops")
    if checkpoints is not None and not train:
        raise InputError("--checkpoints is for training; give its steps with --train")
    if mixed:
        chosen = {} if choices is None else {"choices": tuple(choices.split(","))}
        return MixedPrecision(**budget, **chosen, quantize=base)  # type: ignore[arg-type]
    return quantization(base, train, checkpoints)


def _show_sensitivity(compressed: Compressed, path: Path | None, *, as_json: bool) -> None:
    """Print the table that bits were chosen by, and save it, where there is one."""
    from mixmix.compress.quantize.sensitivity_table import SensitivityTable
    from mixmix.report.sensitivity import print_sensitivity

    found = [method.results for method in compressed.applied if "sensitivity" in method.results]
    if not found:
        return
    table = SensitivityTable.from_dict(found[-1]["sensitivity"])
    if path is not None:
        table.save(path)
    if not as_json:
        print_sensitivity(table, Console(), layer_bits=found[-1]["layer_bits"])
