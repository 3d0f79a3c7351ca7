"""``mixmix prune``: from options to methods, and from a compressed model to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixmix.cli.common import (
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
    from mixmix.compression.method import Method
    from mixmix.compression.pruning.prune import Prune
    from mixmix.compression.pruning.prune_channels import PruneChannels
    from mixmix.compression.recovery.recover import Recovery

__all__ = ["prune"]

_WEIGHTS, _CHANNELS, _RECOVERY = "Single weights", "Channels", "Recovery"
_FORMATS = {".onnx": "onnx", ".pt2": "pt2e", ".safetensors": "sparse"}


def _option(text: str, *names: str, panel: str, **checks: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **checks)


def prune(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="Folder made by 'mixmix synthesize'.")],
    out: Annotated[
        Path, typer.Option(help="File to write: .onnx, .pt2, or .safetensors without zeros.")
    ],
    sparsity: Annotated[
        float | None,
        _option("Share of the weights that become zero (default: 0.8).", panel=_WEIGHTS),
    ] = None,
    pattern: Annotated[
        str | None,
        _option("N:M, such as 2:4, in place of a sparsity.", panel=_WEIGHTS),
    ] = None,
    criterion: Annotated[
        str | None, _option("magnitude, wanda or obs (default: the method's).", panel=_WEIGHTS)
    ] = None,
    allocation: Annotated[
        str | None,
        _option(
            "global, uniform or sensitivity; lamp for weights (default: the method's).",
            panel=_WEIGHTS,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, _option("Name of a layer that stays dense; repeat.", panel=_WEIGHTS)
    ] = None,
    max_macs: Annotated[
        float | None, _option("Share of the multiplications that is left.", panel=_CHANNELS)
    ] = None,
    max_parameters: Annotated[
        float | None, _option("Share of the parameters that is left.", panel=_CHANNELS)
    ] = None,
    max_latency: Annotated[
        float | None,
        _option("Share of the time in ONNX Runtime on one thread.", panel=_CHANNELS),
    ] = None,
    importance: Annotated[
        str | None,
        _option("taylor, magnitude or bn-scale (default: the method's).", panel=_CHANNELS),
    ] = None,
    recovery: Annotated[
        list[str] | None,
        _option(
            "none, or bn, reconstruct, fine-tune; repeat, in order (default: the last two).",
            panel=_RECOVERY,
        ),
    ] = None,
    steps: Annotated[
        int | None, _option("Steps of fine-tuning (default: the method's).", panel=_RECOVERY, min=1)
    ] = None,
    checkpoints: Annotated[
        Path | None, _option("Folder from which fine-tuning goes on.", panel=_RECOVERY)
    ] = None,
    then_quantize: Annotated[
        str | None, typer.Option(help="Bits such as W8A8, to quantize to afterwards.")
    ] = None,
    held_out: Annotated[
        int,
        typer.Option(help="Images kept back, on which the accuracy lost is estimated.", min=0),
    ] = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prune a network and write it; the command line says what each option is."""
    from mixmix.compression.method import compress
    from mixmix.compression.pruning.sparsity import sparsity_of
    from mixmix.compression.quantization.quantize import Quantize
    from mixmix.estimation import estimate_accuracy
    from mixmix.exporters import export
    from mixmix.exporters.agreement import MIN_PROBE_IMAGES
    from mixmix.zoo import Zoo

    prepare(device, threads)
    file_format = _format_of(out)
    method = _method(
        {"sparsity": sparsity, "pattern": pattern, "criterion": criterion, "skip": skip},
        {
            "max_macs": max_macs,
            "max_parameters": max_parameters,
            "max_latency": max_latency,
            "importance": importance,
        },
        {"allocation": allocation, "recovery": _recoveries(recovery, steps, checkpoints)},
    )
    methods: list[Method] = [method]
    if then_quantize is not None:
        methods.append(Quantize(then_quantize))
    images = load_images(data)
    # A check on too few images would refuse, when all is done, what noise can check as well.
    probe = images.images[:256] if len(images) >= MIN_PROBE_IMAGES else None
    judged = None
    if held_out:
        images, judged = images.split(len(images) - held_out)
    teacher = Zoo.load([model], device=device)[0]
    with progress_bar("pruning") as advance:
        compressed = compress(teacher, images, methods, seed=seed, on_progress=advance)
    artifact = export(compressed, out, format=file_format, probe=probe)
    # Not of the file, since a sparse one does not run by itself; it computes the same.
    estimate = None if judged is None else estimate_accuracy(compressed, teacher, judged)
    content = {
        "model": teacher.spec.name,
        "setting": method.setting,
        "bits": then_quantize,
        "out": str(out),
        "size_bytes": artifact.size_bytes,
        "sparsity": sparsity_of(compressed.model).total,
        "agreement_with_pytorch": artifact.agreement,
        "estimate": None if estimate is None else estimate.to_dict(),
        "layers": [record.to_dict() for record in compressed.records],
    }
    title = f"wrote {out} ({artifact.size_bytes:,} bytes)"
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
    if out.suffix not in _FORMATS:
        raise InputError(f"--out must name a file that ends in {', '.join(_FORMATS)}, got {out}")
    return _FORMATS[out.suffix]


def _method(
    weights: Mapping[str, Any], channels: Mapping[str, Any], common: Mapping[str, Any]
) -> Prune | PruneChannels:
    """Of single weights, or of channels where a budget is given for them."""
    from mixmix.compression.pruning.prune import Prune
    from mixmix.compression.pruning.prune_channels import PruneChannels

    weights, channels, common = (
        {name: value for name, value in given.items() if value is not None}
        for given in (weights, channels, common)
    )
    if channels:
        if weights:
            raise InputError(
                f"{_listed(weights)} is for single weights, {_listed(channels)} for channels; "
                "leave out one of both kinds"
            )
        return PruneChannels(**channels, **common)
    if {"sparsity", "pattern"} <= weights.keys() and weights["pattern"] != "unstructured":
        raise InputError(
            f"--pattern {weights['pattern']} has a sparsity of its own; leave out --sparsity"
        )
    return Prune(**weights, **common)


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in options)


def _recoveries(
    names: Sequence[str] | None, steps: int | None, checkpoints: Path | None
) -> list[Recovery]:
    """The recoveries asked for, by default the method's own."""
    from dataclasses import replace

    from mixmix.compression.recovery.batch_norm import ReestimateBatchNorm
    from mixmix.compression.recovery.features import ReconstructFeatures
    from mixmix.compression.recovery.fine_tuning import FineTune

    training = FineTune().training
    if steps is not None:
        training = replace(training, steps=steps)
    known: dict[str, Recovery] = {
        "bn": ReestimateBatchNorm(),
        "reconstruct": ReconstructFeatures(),
        "fine-tune": FineTune(training, checkpoints=checkpoints),
    }
    chosen = list(names or ("reconstruct", "fine-tune"))
    if chosen == ["none"]:
        chosen = []
    for name in chosen:
        if name not in known:
            raise InputError(f"--recovery must be none or {', '.join(known)}, got {name!r}")
    if "fine-tune" not in chosen and not (steps is None and checkpoints is None):
        raise InputError("--steps and --checkpoints are for fine-tuning; add --recovery fine-tune")
    return [known[name] for name in chosen]
