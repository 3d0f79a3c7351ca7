"""``mixmix quantize``, ``mixmix prune`` and ``mixmix distill``: a compressed network in a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mixmix.cli.options import Given, command
from mixmix.cli.results import do
from mixmix.cli.run_file import NO_VALUE
from mixmix.errors import InputError

__all__ = ["distill", "kept_layers", "prune", "quantize"]

# Kinds of recovery by their values of --recovery.
_RECOVERIES = {"bn": "batch-norm", "reconstruct": "reconstruct", "fine-tune": "fine-tune"}


@command(
    "quantize",
    """
    model.reference! --model -m
    images.folders! --data
    file! --out: File to write: .onnx, or .pt2 for PyTorch.
    export.optimize_for
    DEPLOYMENT
    quantize.bits
    images.held_out
    keep
    evaluation.explain
    layers
    COMMON
    NETWORK
    [Grid]
    all_layers
    quantize.per_channel --per-channel/--per-tensor
    quantize.symmetric_weights --symmetric-weights/--affine-weights
    quantize.symmetric_activations --symmetric-activations/--affine-activations
    quantize.equalize
    quantize.correct_bias
    [Reconstruction]
    quantize.reconstruction.iterations
    quantize.views
    quantize.memory_gib
    [Mixed precision]
    search.max_size
    search.max_loss
    search.aim
    mixed.max_bitops_ratio --max-bitops
    mixed.choices
    export.sensitivity
    [Training]
    train
    training.checkpoints
    """,
)
def quantize(given: Given) -> None:
    """Quantize a network on synthetic images and export it to ONNX or PyTorch's .pt2.

    Example: mixmix quantize -m bundled:resnet --data images --bits W4A8 --out resnet-w4a8.onnx
    """
    settings, budget = given.pop("quantize", {}), given.pop("mixed", {})
    if kept := kept_layers(given.pop("keep")):
        settings["layer_bits"] = kept
    training, steps = given.pop("training", {}), given.pop("train")
    if given.pop("all_layers"):
        settings["first_last_bits"] = NO_VALUE
    if training and not steps:
        raise InputError("--checkpoints is for training; set its steps with --train")
    if steps and "search" in given:
        raise InputError(
            "--train needs the same bits for all layers; leave out --max-size and --max-loss, or "
            "--train"
        )
    if budget.keys() - {"choices"}:
        if steps:
            raise InputError(
                "--train needs the same bits for all layers; leave out --max-bitops, or --train"
            )
        method = {"method": "mixed-precision", **budget, "quantize": settings}
    elif budget:
        raise InputError("--choices needs a budget; add --max-bitops")
    elif "sensitivity" in given.get("export", {}) and "search" not in given:
        raise InputError("--sensitivity needs a budget; add --max-size or --max-bitops")
    else:
        method = _quantization(settings, steps, training)
    do(given | {"methods": [method]})


def kept_layers(values: Iterable[str]) -> dict[str, str]:
    """Bits by layer, from values of --keep."""
    return dict(map(_kept_bits, values))


def _kept_bits(text: str) -> tuple[str, str]:
    """The layer and the bits of a value of --keep: LAYER, LAYER=W8A8 or LAYER=8."""
    name, equals, bits = text.rpartition("=")
    if not equals:
        return text, "float"
    return name, f"W{bits}A{bits}" if bits.isdecimal() else bits


def _quantization(settings: Given, steps: int, training: Given) -> Given:
    """The method that quantizes, and trains if there are steps for it."""
    base = {"method": "quantize", **settings}
    if not steps:
        return base
    return {"method": "quantize-aware", "base": base, "training": {"steps": steps}, **training}


@command(
    "prune",
    """
    model.reference! --model -m
    images.folders! --data
    file! --out: File to write: .onnx, .pt2, or .safetensors (weights without zeros).
    then_quantize
    then_train
    images.held_out
    DEPLOYMENT
    layers
    COMMON
    NETWORK
    [Single weights]
    prune.sparsity
    prune.pattern
    prune.criterion
    prune.allocation
    prune.skip
    prune.rounds
    [Channels]
    channels.max_macs
    channels.max_parameters
    channels.max_latency
    channels.importance
    blocks
    [Recovery]
    recovery
    [Fine-tuning]
    tuning.training.steps
    prune.checkpoints
    """,
)
def prune(given: Given) -> None:
    """Prune a network on synthetic images, recover its accuracy, and export it.

    Example: mixmix prune -m bundled:resnet --data images --sparsity 0.9 --out resnet.safetensors
    """
    weights, channels = given.pop("prune", {}), given.pop("channels", {})
    checkpoints, blocks = weights.pop("checkpoints", None), given.pop("blocks")
    recovery = _recovery(given.pop("recovery"), given.pop("tuning", {}), checkpoints)
    if channels or blocks:
        if checkpoints is not None and all(each["recovery"] != "fine-tune" for each in recovery):
            raise InputError(
                "--checkpoints with channels is for fine-tuning; add --recovery fine-tune"
            )
        method = {"method": "prune-blocks" if blocks else "prune-channels", **channels, **weights}
    else:
        if "sparsity" in weights and weights.get("pattern", "unstructured") != "unstructured":
            raise InputError(
                f"--pattern {weights['pattern']} determines the sparsity; leave out --sparsity"
            )
        method = {"method": "prune", **weights, **_within(checkpoints, "")}
    methods = [method | {"recovery": recovery}]
    bits, steps = given.pop("then_quantize"), given.pop("then_train")
    if bits is not None:
        folder = _within(checkpoints, "quantization-aware")
        methods.append(_quantization({"bits": bits}, steps, folder))
    elif steps:
        raise InputError(
            "--then-train needs a quantized network; set its bits with --then-quantize"
        )
    do(given | {"methods": methods})


def _recovery(chosen: list[str], tuning: Given, checkpoints: str | None) -> list[Given]:
    chosen = [] if chosen == [NO_VALUE] else chosen
    for name in chosen:
        if name not in _RECOVERIES:
            raise InputError(f"--recovery must be none or {', '.join(_RECOVERIES)}, got {name!r}")
    if tuning and "fine-tune" not in chosen:
        raise InputError("--steps is for fine-tuning; add --recovery fine-tune")
    tuning |= _within(checkpoints, "fine-tuning")
    return [
        {"recovery": _RECOVERIES[name]} | (tuning if name == "fine-tune" else {}) for name in chosen
    ]


def _within(checkpoints: str | None, folder: str) -> Given:
    """The field of a method for its checkpoints."""
    return {} if checkpoints is None else {"checkpoints": str(Path(checkpoints) / folder)}


@command(
    "distill",
    """
    model.reference! --model -m
    student!
    file! --out: File to write: .onnx, .pt2 or .safetensors.
    DEPLOYMENT
    layers
    COMMON
    NETWORK
    [Images]
    networks --zoo
    images.folders --data
    images.held_out
    fresh.every_steps
    [Training]
    distill.training.steps
    distill.training.batch_size
    distill.training.learning_rate
    distill.training.feature_weight
    distill.checkpoints
    """,
)
def distill(given: Given) -> None:
    """Train another network from scratch, without data, to match a network's predictions.

    Example: mixmix distill -m bundled:resnet --student bundled:mobilenetv2 --zoo bundled:resnet
    --zoo bundled:vgg --out student.onnx --checkpoints run
    """
    method = {"method": "distill", "student": given.pop("student"), **given.pop("distill", {})}
    fresh, zoo = given.pop("fresh", {}), given.pop("networks")
    if zoo:
        method["fresh"] = {"more_images": "generated", "zoo": zoo, **fresh}
    elif not given.get("images", {}).get("folders"):
        raise InputError("no images to learn from; add --zoo, --data, or both")
    elif fresh:
        raise InputError("--every-steps is for the networks of --zoo; add --zoo")
    do(given | {"methods": [method]})
