"""``mixmix prune``: a pruned network in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixmix.cli.command import (
    DATA,
    HELD_OUT,
    JSON,
    MODEL,
    PROCESS,
    Command,
    do,
    file_out,
    written_as,
)
from mixmix.cli.options import Fields, Given, Option
from mixmix.cli.output import report_file
from mixmix.cli.quantize import quantization
from mixmix.errors import InputError

__all__ = ["PRUNE"]

_CHANNELS_CLASS = "mixmix.compress.prune.channels.prune_channels:PruneChannels"
_WEIGHTS, _CHANNELS, _RECOVERY = "Single weights", "Channels", "Recovery"
_TUNING = "Fine-tuning"
# Options to the recoveries that they stand for.
_RECOVERIES = {"bn": "batch-norm", "reconstruct": "reconstruct", "fine-tune": "fine-tune"}


def _prune(given: Given) -> None:
    from mixmix.compress.prune.weights.sparsity import sparsity_of

    checkpoints = given.fields("prune").get("checkpoints")
    methods = [_method(given, checkpoints)]
    bits, steps = given["then_quantize"], given["then_train"]
    if bits is not None:
        folder = checkpoints and str(Path(checkpoints) / "quantization-aware")
        methods.append(quantization({"bits": bits}, steps, folder))
    elif steps:
        raise InputError("--then-train needs a quantized network; give its bits by --then-quantize")
    outcome = do(
        given,
        {
            "model": given.fields("model"),
            "images": given.fields("images"),
            "methods": methods,
            **written_as(given["out"]),
        },
    )
    assert outcome.compressed is not None
    method: Any = outcome.methods[0]
    extra = {
        "setting": method.setting,
        "bits": bits,
        "sparsity": sparsity_of(outcome.compressed.module).total,
    }
    report_file(extra, outcome, given["json"])


def _method(given: Given, checkpoints: str | None) -> dict[str, Any]:
    """Single weights, or channels or blocks if a budget is given for them."""
    weights, channels = given.fields("prune"), given.fields("channels")
    weights.pop("checkpoints", None)
    recovery = _recoveries(given, checkpoints)
    if given["blocks"] and not {"max_macs", "max_parameters", "max_latency"} & channels.keys():
        raise InputError("--blocks needs --max-macs, --max-parameters or --max-latency")
    if channels:
        if weights:
            raise InputError(
                f"{_listed(weights)} is for single weights, {_listed(channels)} for channels; "
                "leave out one of both kinds"
            )
        if checkpoints is not None and all(each["recovery"] != "fine-tune" for each in recovery):
            raise InputError(
                "--checkpoints with channels is for fine-tuning; add --recovery fine-tune"
            )
        if not given["blocks"]:
            return {"method": "prune-channels", **channels, "recovery": recovery}
        if "importance" in channels:
            raise InputError("--importance is not for --blocks; leave it out")
        return {"method": "prune-blocks", **channels, "recovery": recovery}
    if {"sparsity", "pattern"} <= weights.keys() and weights["pattern"] != "unstructured":
        raise InputError(
            f"--pattern {weights['pattern']} has a sparsity of its own; leave out --sparsity"
        )
    kept = {} if checkpoints is None else {"checkpoints": checkpoints}
    return {"method": "prune", **weights, "recovery": recovery, **kept}


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in options)


def _recoveries(given: Given, checkpoints: str | None) -> list[dict[str, Any]]:
    """The recoveries asked for, by default the method's own."""
    chosen = list(given["recovery"] or ("reconstruct", "fine-tune"))
    if chosen == ["none"]:
        chosen = []
    for name in chosen:
        if name not in _RECOVERIES:
            raise InputError(f"--recovery must be none or {', '.join(_RECOVERIES)}, got {name!r}")
    tuning = given.fields("fine-tune")
    if tuning and "fine-tune" not in chosen:
        raise InputError("--steps is for fine-tuning; add --recovery fine-tune")
    if checkpoints is not None:
        tuning["checkpoints"] = str(Path(checkpoints) / "fine-tuning")
    return [
        {"recovery": _RECOVERIES[name]} | (tuning if name == "fine-tune" else {}) for name in chosen
    ]


PRUNE = Command(
    "prune",
    help="Prune a network on synthetic images, recover its accuracy, and export it.",
    example="mixmix prune -m bundled:resnet --data images --sparsity 0.9 --out resnet.safetensors",
    options=(
        MODEL,
        DATA,
        file_out("File to write: .onnx, .pt2, or .safetensors (weights without zeros)."),
        Fields(
            "prune",
            "mixmix.compress.prune.weights.prune:Prune",
            "sparsity, pattern, criterion, allocation, skip, rounds",
            panel=_WEIGHTS,
        ),
        Fields(
            "channels",
            _CHANNELS_CLASS,
            "max_macs, max_parameters, max_latency, importance",
            panel=_CHANNELS,
        ),
        Option(
            "blocks",
            bool,
            "Remove residual blocks instead of channels, to these budgets.",
            False,
            ("--blocks",),
            panel=_CHANNELS,
        ),
        Option(
            "recovery",
            list[str] | None,
            "none, or bn, reconstruct, fine-tune; repeat, in "
            "order (default: reconstruct, fine-tune).",
            panel=_RECOVERY,
        ),
        Fields(
            "fine-tune",
            "mixmix.compress.recover.fine_tuning:FineTune",
            "training.steps",
            panel=_TUNING,
        ),
        Fields(
            "prune",
            "mixmix.compress.prune.weights.prune:Prune",
            "checkpoints",
            panel=_TUNING,
        ),
        Option("then_quantize", str | None, "Bits to quantize to after pruning, such as W8A8."),
        Option(
            "then_train",
            int,
            "Steps of quantization-aware training after --then-quantize; its "
            "teacher is the network before pruning.",
            0,
            minimum=0,
        ),
        HELD_OUT,
        PROCESS,
        JSON,
    ),
    call=_prune,
)
