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
    from mixmix.compress.method import Method
    from mixmix.compress.prune.blocks.prune_blocks import PruneBlocks
    from mixmix.compress.prune.channels.prune_channels import PruneChannels
    from mixmix.compress.prune.weights.prune import Prune
    from mixmix.compress.recover.recover import Recovery

__all__ = ["prune"]

_WEIGHTS, _CHANNELS, _RECOVERY = "Single weights", "Channels", "Recovery"
_FORMATS = {".onnx": "onnx", ".pt2": "pt2e", ".safetensors": "sparse"}


def prune(
    model: ModelArgument,
    data: DataOption,
    out: Annotated[
        Path, typer.Option(help="File to write: .onnx, .pt2, or .safetensors without zeros.")
    ],
    sparsity: Annotated[
        float | None,
        option("Share of the weights that become zero (default: 0.8).", panel=_WEIGHTS),
    ] = None,
    pattern: Annotated[
        str | None,
        option("N:M, such as 2:4, in place of a sparsity.", panel=_WEIGHTS),
    ] = None,
    criterion: Annotated[
        str | None, option("magnitude, wanda or obs (default: the method's).", panel=_WEIGHTS)
    ] = None,
    allocation: Annotated[
        str | None,
        option(
            "global, uniform, sensitivity; lamp, sqrt-lamp for weights (default: the method's).",
            panel=_WEIGHTS,
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, option("Name of a layer that stays dense; repeat.", panel=_WEIGHTS)
    ] = None,
    rounds: Annotated[
        int | None,
        option("Steps in which the zeros become more (default: the method's).", panel=_WEIGHTS),
    ] = None,
    max_macs: Annotated[
        float | None, option("Share of the multiplications that is left.", panel=_CHANNELS)
    ] = None,
    max_parameters: Annotated[
        float | None, option("Share of the parameters that is left.", panel=_CHANNELS)
    ] = None,
    max_latency: Annotated[
        float | None,
        option("Share of the time in ONNX Runtime on one thread.", panel=_CHANNELS),
    ] = None,
    blocks: Annotated[
        bool,
        option("Remove residual blocks in place of channels, to these budgets.", panel=_CHANNELS),
    ] = False,
    importance: Annotated[
        str | None,
        option("obs, taylor, magnitude or bn-scale (default: the method's).", panel=_CHANNELS),
    ] = None,
    recovery: Annotated[
        list[str] | None,
        option(
            "none, or bn, reconstruct, fine-tune; repeat, in order (default: the last two).",
            panel=_RECOVERY,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        option("Steps of fine-tuning (default: the method's).", panel=_RECOVERY, min=1),
    ] = None,
    checkpoints: Annotated[
        Path | None, option("Folder from which an interrupted run goes on.", panel=_RECOVERY)
    ] = None,
    then_quantize: Annotated[
        str | None, typer.Option(help="Bits such as W8A8, to quantize to afterwards.")
    ] = None,
    then_train: Annotated[
        int,
        typer.Option(
            help="Steps of quantization-aware training behind --then-quantize; its teacher is the "
            "network before it was pruned.",
            min=0,
        ),
    ] = 0,
    held_out: HeldOutOption = 0,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prune a network and write it; the command line says what each option is."""
    from mixmix.compress.compress import compress
    from mixmix.compress.prune.weights.sparsity import sparsity_of
    from mixmix.compress.quantize.quantize import Quantize
    from mixmix.export import export
    from mixmix.models import load

    prepare(device, threads)
    file_format = format_of(out, _FORMATS)
    method = _method(
        {
            "sparsity": sparsity,
            "pattern": pattern,
            "criterion": criterion,
            "skip": skip,
            "rounds": rounds,
        },
        {
            "max_macs": max_macs,
            "max_parameters": max_parameters,
            "max_latency": max_latency,
            "importance": importance,
        },
        {"allocation": allocation, "recovery": _recoveries(recovery, steps, checkpoints)},
        checkpoints,
        blocks=blocks,
    )
    methods: list[Method] = [method]
    if then_quantize is not None:
        folder = checkpoints and checkpoints / "quantization-aware"
        methods.append(quantization(Quantize(then_quantize), then_train, folder))
    elif then_train:
        raise InputError("--then-train is for what is quantized; give its bits by --then-quantize")
    images = Images.load(data, held_out=held_out)
    teacher = load(model, device=device)
    with progress_bar("pruning") as advance:
        compressed = compress(teacher, images.used, methods, seed=seed, on_progress=advance)
    artifact = export(compressed, out, format=file_format, probe=images.probe)
    # Not of the file, since a sparse one does not run by itself; it computes the same.
    estimate = images.estimate(compressed, teacher)
    content = {
        "setting": method.setting,
        "bits": then_quantize,
        "sparsity": sparsity_of(compressed.module).total,
    }
    title = f"wrote {out} ({artifact.size_bytes:,} bytes)"
    report_file(content, compressed, artifact, estimate, title=title, as_json=as_json)


def _method(
    weights: Mapping[str, Any],
    channels: Mapping[str, Any],
    common: Mapping[str, Any],
    checkpoints: Path | None,
    *,
    blocks: bool,
) -> Prune | PruneBlocks | PruneChannels:
    """Of single weights, or of channels or blocks where a budget is given for them."""
    from mixmix.compress.prune.blocks.prune_blocks import PruneBlocks
    from mixmix.compress.prune.channels.prune_channels import PruneChannels
    from mixmix.compress.prune.weights.prune import Prune

    weights, channels, common = (
        {name: value for name, value in given.items() if value is not None}
        for given in (weights, channels, common)
    )
    if blocks and not {"max_macs", "max_parameters", "max_latency"} & channels.keys():
        raise InputError("--blocks needs --max-macs, --max-parameters or --max-latency")
    if channels:
        if weights:
            raise InputError(
                f"{_listed(weights)} is for single weights, {_listed(channels)} for channels; "
                "leave out one of both kinds"
            )
        if checkpoints is not None and not any(
            step.uses_checkpoints for step in common["recovery"]
        ):
            raise InputError(
                "--checkpoints with channels is for fine-tuning; add --recovery fine-tune"
            )
        if not blocks:
            return PruneChannels(**channels, **common)
        ranked = {"importance": channels.get("importance"), "allocation": common.get("allocation")}
        if any(ranked.values()):
            raise InputError("--importance and --allocation are not for --blocks; leave them out")
        return PruneBlocks(**channels, recovery=common["recovery"])
    if {"sparsity", "pattern"} <= weights.keys() and weights["pattern"] != "unstructured":
        raise InputError(
            f"--pattern {weights['pattern']} has a sparsity of its own; leave out --sparsity"
        )
    return Prune(**weights, **common, checkpoints=checkpoints)


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in options)


def _recoveries(
    names: Sequence[str] | None, steps: int | None, checkpoints: Path | None
) -> list[Recovery]:
    """The recoveries asked for, by default the method's own."""
    from dataclasses import replace

    from mixmix.compress.recover.batch_norm import ReestimateBatchNorm
    from mixmix.compress.recover.features import ReconstructFeatures
    from mixmix.compress.recover.fine_tuning import FineTune

    training = FineTune().training
    if steps is not None:
        training = replace(training, steps=steps)
    known: dict[str, Recovery] = {
        "bn": ReestimateBatchNorm(),
        "reconstruct": ReconstructFeatures(),
        "fine-tune": FineTune(training, checkpoints=checkpoints and checkpoints / "fine-tuning"),
    }
    chosen = list(names or ("reconstruct", "fine-tune"))
    if chosen == ["none"]:
        chosen = []
    for name in chosen:
        if name not in known:
            raise InputError(f"--recovery must be none or {', '.join(known)}, got {name!r}")
    if "fine-tune" not in chosen and steps is not None:
        raise InputError("--steps is for fine-tuning; add --recovery fine-tune")
    return [known[name] for name in chosen]
