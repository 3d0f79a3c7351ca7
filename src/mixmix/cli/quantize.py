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
    layer_rows,
    load_images,
    prepare,
    progress_bar,
    report,
)
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix.compression.method import Compressed, Method
    from mixmix.compression.quantization.quantize import Quantize

__all__ = ["quantize"]

_GRID, _LEARNING, _BUDGET, _TRAINING = "Grid", "Reconstruction", "Mixed precision", "Training"


def _option(text: str, *names: str, panel: str, **checks: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **checks)


def quantize(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="Folder made by 'mixmix synthesize'.")],
    out: Annotated[Path, typer.Option(help="File to write: .onnx, or .pt2 for PyTorch.")],
    optimise_for: Annotated[
        str, typer.Option(help="size or speed, where an .onnx file has 4 bits or fewer.")
    ] = "size",
    bits: Annotated[str, typer.Option(help="W<weights>A<activations>, 2 to 8 bits.")] = "W8A8",
    held_out: Annotated[
        int,
        typer.Option(help="Images kept back, on which the accuracy lost is estimated.", min=0),
    ] = 0,
    all_layers: Annotated[
        bool, _option("The first and last layer have no 8 bits either.", panel=_GRID)
    ] = False,
    per_tensor: Annotated[
        bool, _option("One scale for all weights of a layer.", "--per-tensor", panel=_GRID)
    ] = False,
    affine: Annotated[
        bool, _option("Weights with zero points.", "--affine-weights", panel=_GRID)
    ] = False,
    symmetric: Annotated[
        bool, _option("No free zero points.", "--symmetric-activations", panel=_GRID)
    ] = False,
    equalise: Annotated[
        bool | None,
        _option(
            "Cross-layer equalisation (default: around depthwise layers).",
            "--equalise/--no-equalise",
            panel=_GRID,
        ),
    ] = None,
    correct_bias: Annotated[
        bool | None,
        _option(
            "Bias correction (default: where a depthwise layer needs it).",
            "--correct-bias/--no-correct-bias",
            panel=_GRID,
        ),
    ] = None,
    iterations: Annotated[
        int | None, _option("Steps per unit; 0 rounds to nearest.", panel=_LEARNING)
    ] = None,
    loss: Annotated[
        str | None, _option("mse, fisher or output (default: mse).", panel=_LEARNING)
    ] = None,
    views: Annotated[
        int | None,
        _option("Images or mixtures to reconstruct on; 0: images alone.", panel=_LEARNING, min=0),
    ] = None,
    memory: Annotated[
        float | None,
        _option(
            "GiB for activations; the rest is on disk (default: half).",
            "--memory-gib",
            panel=_LEARNING,
        ),
    ] = None,
    max_size: Annotated[
        float | None,
        _option("Size as a share of float32; bits are chosen by layer.", panel=_BUDGET),
    ] = None,
    max_bitops: Annotated[
        float | None, _option("Bit operations as a share of float32.", panel=_BUDGET)
    ] = None,
    choices: Annotated[
        str | None,
        _option("Bits to choose from, as in W2A8,W4A8,W8A8.", panel=_BUDGET),
    ] = None,
    sensitivity: Annotated[
        Path | None, _option("JSON file for the table of sensitivities.", panel=_BUDGET)
    ] = None,
    train: Annotated[
        int, _option("Steps of quantization-aware training.", "--train", panel=_TRAINING, min=0)
    ] = 0,
    checkpoints: Annotated[
        Path | None, _option("Folder from which training goes on.", panel=_TRAINING)
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quantize a network and write it; the command line says what each option is."""
    from dataclasses import replace

    from mixmix.compression.method import compress
    from mixmix.compression.quantization.quantize import Quantize
    from mixmix.compression.quantization.reconstruction import ReconstructionSettings
    from mixmix.estimation import estimate_accuracy
    from mixmix.exporters import export
    from mixmix.exporters.agreement import MIN_PROBE_IMAGES
    from mixmix.zoo import Zoo

    prepare(device, threads)
    file_format = _format_of(out)
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
        equalise=equalise,
        correct_bias=correct_bias,
        views=Quantize.views if views is None else views,
        memory_gib=memory,
        reconstruction=reconstruction,
    )
    budget = {"max_size_ratio": max_size, "max_bitops_ratio": max_bitops}
    method = _method(base, budget, choices, sensitivity, train, checkpoints)
    images = load_images(data)
    # A check on too few images would refuse, when all is done, what noise can check as well.
    probe = images.images[:256] if len(images) >= MIN_PROBE_IMAGES else None
    judged = None
    if held_out:
        images, judged = images.split(len(images) - held_out)
    teacher = Zoo.load([model], device=device)[0]
    with progress_bar("quantizing") as advance:
        compressed = compress(teacher, images, method, seed=seed, on_progress=advance)
    artifact = export(
        compressed,
        out,
        format=file_format,
        optimise_for=optimise_for,
        probe=probe,
    )
    estimate = None if judged is None else estimate_accuracy(artifact, teacher, judged)
    content = {
        "model": teacher.spec.name,
        "setting": base.bits,
        "out": str(out),
        "size_bytes": artifact.size_bytes,
        "agreement_with_pytorch": artifact.agreement,
        "estimate": None if estimate is None else estimate.to_dict(),
        "layers": [record.to_dict() for record in compressed.records],
    }
    _show_sensitivity(compressed, sensitivity, as_json=as_json)
    title = f"wrote {out}"
    if estimate is not None:
        low, high = estimate.predicted_drop_interval
        title += (
            f"; estimated loss of accuracy {estimate.predicted_drop:.1f} points "
            f"({low:.1f} to {high:.1f}), agreement {estimate.agreement:.1f}%"
        )
    report(content, layer_rows(compressed.records), as_json, title=title)


def _format_of(out: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        InputError: if it is none that can be written.
    """
    formats = {".onnx": "onnx", ".pt2": "pt2e"}
    if out.suffix not in formats:
        raise InputError(f"--out must name an .onnx or .pt2 file, got {out}")
    return formats[out.suffix]


def _method(
    base: Quantize,
    budget: Mapping[str, float | None],
    choices: str | None,
    sensitivity: Path | None,
    train: int,
    checkpoints: Path | None,
) -> Method:
    from dataclasses import replace

    from mixmix.compression.quantization.mixed_precision import MixedPrecision
    from mixmix.compression.quantization.quantize_aware import QuantizeAware

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
    if train:
        training = replace(QuantizeAware().training, steps=train)
        return QuantizeAware(base, training, checkpoints=checkpoints)
    return base


def _show_sensitivity(compressed: Compressed, path: Path | None, *, as_json: bool) -> None:
    """Print the table that bits were chosen by, and save it, where there is one."""
    from mixmix.compression.quantization.sensitivity_table import SensitivityTable
    from mixmix.reporting import print_sensitivity

    found = [chosen for chosen in compressed.settings if "sensitivity" in chosen]
    if not found:
        return
    table = SensitivityTable.from_dict(found[-1]["sensitivity"])
    if path is not None:
        table.save(path)
    if not as_json:
        print_sensitivity(table, Console(), layer_bits=found[-1]["layer_bits"])
