"""``mixmix quantize``, ``mixmix prune`` and ``mixmix distill``: a compressed network in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixmix.cli.command import COMMON, DATA, HELD_OUT, MODEL, Command, do, out
from mixmix.cli.options import NO_VALUE, Fields, Given, Option
from mixmix.cli.run_file import ExportSection, ImagesSection
from mixmix.errors import InputError

__all__ = ["COMPRESSION_COMMANDS"]

# Kinds of recovery by their values of --recovery.
_RECOVERIES = {"bn": "batch-norm", "reconstruct": "reconstruct", "fine-tune": "fine-tune"}


def _quantize(given: Given) -> None:
    quantize, budget = given.fields("quantize"), given.fields("mixed")
    steps, training = given["train"], given.fields("training")
    if given["all_layers"]:
        quantize["first_last_bits"] = NO_VALUE
    if training and not steps:
        raise InputError("--checkpoints is for training; set its steps with --train")
    if budget.keys() - {"choices"}:
        if steps:
            raise InputError(
                "--train needs the same bits for all layers; leave out --max-size and "
                "--max-bitops, or --train"
            )
        method = {"method": "mixed-precision", **budget, "quantize": quantize}
    elif budget or given["sensitivity"]:
        name = "choices" if budget else "sensitivity"
        raise InputError(f"--{name} needs a budget; add --max-size or --max-bitops")
    else:
        method = _quantization(quantize, steps, training)
    if given["sensitivity"]:
        from mixmix.runtime.storage import check_writable

        check_writable(given["sensitivity"])
    outcome = do(given, methods=[method])
    if given["sensitivity"] and outcome.sensitivity is not None:
        outcome.sensitivity[0].save(given["sensitivity"])


def _quantization(
    quantize: Mapping[str, Any], steps: int, training: Mapping[str, Any]
) -> dict[str, Any]:
    """The method that quantizes, and trains if there are steps for it."""
    base = {"method": "quantize", **quantize}
    if not steps:
        return base
    return {"method": "quantize-aware", "base": base, "training": {"steps": steps}, **training}


QUANTIZE = Command(
    "quantize",
    "Quantize a network on synthetic images and export it to ONNX or PyTorch's .pt2.",
    "mixmix quantize -m bundled:resnet --data images --bits W4A8 --out resnet-w4a8.onnx",
    (
        MODEL,
        DATA,
        out("File to write: .onnx, or .pt2 for PyTorch."),
        Fields("export", ExportSection, "optimize_for"),
        Fields("quantize", "Quantize", "bits"),
        HELD_OUT,
        Option(
            "all_layers", bool, "Quantize first and last layer like the others.", False, "", "Grid"
        ),
        Fields(
            "quantize",
            "Quantize",
            "per_channel --per-channel/--per-tensor, "
            "symmetric_weights --symmetric-weights/--affine-weights, "
            "symmetric_activations --symmetric-activations/--affine-activations, "
            "equalize, correct_bias",
            "Grid",
        ),
        Fields(
            "quantize",
            "Quantize",
            "reconstruction.iterations, views, memory_gib",
            "Reconstruction",
        ),
        Fields(
            "mixed",
            "MixedPrecision",
            "max_size_ratio --max-size, max_bitops_ratio --max-bitops, choices",
            "Mixed precision",
        ),
        Option("sensitivity", Path | None, "JSON file for sensitivities.", panel="Mixed precision"),
        Option(
            "train", int, "Steps of quantization-aware training; 0 for none.", 0, "", "Training"
        ),
        Fields("training", "QuantizeAware", "checkpoints", "Training"),
        *COMMON,
    ),
    _quantize,
)


def _prune(given: Given) -> None:
    weights, channels = given.fields("prune"), given.fields("channels")
    checkpoints = weights.pop("checkpoints", None)
    recovery = _recovery(given, checkpoints)
    if channels or given["blocks"]:
        if checkpoints is not None and all(each["recovery"] != "fine-tune" for each in recovery):
            raise InputError(
                "--checkpoints with channels is for fine-tuning; add --recovery fine-tune"
            )
        kind = "prune-blocks" if given["blocks"] else "prune-channels"
        method = {"method": kind, **channels, **weights}
    else:
        if "sparsity" in weights and weights.get("pattern", "unstructured") != "unstructured":
            raise InputError(
                f"--pattern {weights['pattern']} determines the sparsity; leave out --sparsity"
            )
        method = {"method": "prune", **weights, **_within(checkpoints, "")}
    methods = [method | {"recovery": recovery}]
    bits, steps = given["then_quantize"], given["then_train"]
    if bits is not None:
        folder = _within(checkpoints, "quantization-aware")
        methods.append(_quantization({"bits": bits}, steps, folder))
    elif steps:
        raise InputError(
            "--then-train needs a quantized network; set its bits with --then-quantize"
        )
    do(given, methods=methods)


def _recovery(given: Given, checkpoints: str | None) -> list[dict[str, Any]]:
    chosen, tuning = given["recovery"], given.fields("fine-tune")
    if chosen == ["none"]:
        chosen = []
    for name in chosen:
        if name not in _RECOVERIES:
            raise InputError(f"--recovery must be none or {', '.join(_RECOVERIES)}, got {name!r}")
    if tuning and "fine-tune" not in chosen:
        raise InputError("--steps is for fine-tuning; add --recovery fine-tune")
    tuning |= _within(checkpoints, "fine-tuning")
    return [
        {"recovery": _RECOVERIES[name]} | (tuning if name == "fine-tune" else {}) for name in chosen
    ]


def _within(checkpoints: str | None, folder: str) -> dict[str, str]:
    """The field of a method for its checkpoints."""
    return {} if checkpoints is None else {"checkpoints": str(Path(checkpoints) / folder)}


PRUNE = Command(
    "prune",
    "Prune a network on synthetic images, recover its accuracy, and export it.",
    "mixmix prune -m bundled:resnet --data images --sparsity 0.9 --out resnet.safetensors",
    (
        MODEL,
        DATA,
        out("File to write: .onnx, .pt2, or .safetensors (weights without zeros)."),
        Fields(
            "prune",
            "Prune",
            "sparsity, pattern, criterion, allocation, skip, rounds",
            "Single weights",
        ),
        Fields(
            "channels",
            "PruneChannels",
            "max_macs, max_parameters, max_latency, importance",
            "Channels",
        ),
        Option("blocks", bool, "Prune residual blocks instead of channels.", False, "", "Channels"),
        Option(
            "recovery",
            list[str],
            "bn, reconstruct or fine-tune; repeat to apply several in order. none for no recovery.",
            ["reconstruct", "fine-tune"],
            panel="Recovery",
        ),
        Fields("fine-tune", "FineTune", "training.steps", "Fine-tuning"),
        Fields("prune", "Prune", "checkpoints", "Fine-tuning"),
        Option("then_quantize", str | None, "Bits to quantize to after pruning, such as W8A8."),
        Option(
            "then_train",
            int,
            "Steps of quantization-aware training after --then-quantize; the teacher is the "
            "network before pruning.",
            0,
        ),
        HELD_OUT,
        *COMMON,
    ),
    _prune,
)


def _distill(given: Given) -> None:
    zoo, fresh, weight = given["networks"], given.fields("fresh"), given["adversarial_weight"]
    method: dict[str, Any] = {"method": "distill", "student": given["student"]}
    method |= given.fields("distill")
    if zoo:
        if weight is not None:
            fresh["synthesis"] = {"terms": _terms(weight)}
        method["fresh"] = {"more_images": "generated", "zoo": zoo, **fresh}
        if given["ensemble"]:
            method["ensemble"] = zoo
    elif not given.fields("images"):
        raise InputError("no images to learn from; add --zoo, --data, or both")
    elif given["ensemble"] or fresh or weight is not None:
        raise InputError(
            "--ensemble, --every-steps and --adversarial-weight are for the networks of --zoo; "
            "add --zoo"
        )
    do(given, methods=[method])


def _terms(adversarial_weight: float) -> list[dict[str, Any]]:
    """The default terms of a generator's loss, and the adversarial one."""
    from mixmix import AmortizedSettings
    from mixmix.synthesis.terms import Adversarial

    settings = AmortizedSettings().with_term(Adversarial(weight=adversarial_weight))
    terms: list[dict[str, Any]] = settings.to_dict()["terms"]
    return terms


DISTILL = Command(
    "distill",
    "Train another network from scratch, without data, to match a network's predictions.",
    "mixmix distill -m bundled:resnet --student bundled:mobilenetv2 --zoo bundled:resnet "
    "--zoo bundled:vgg --out student.onnx --checkpoints run",
    (
        MODEL,
        Option("student", str, "A model as in --model; its architecture gets fresh weights.", ...),
        out("File to write: .onnx, .pt2 or .safetensors."),
        Option(
            "networks",
            list[str] | None,
            "A network to synthesize images from during training; repeat for several. Without any, "
            "only the images of --data are used.",
            declarations="--zoo",
            panel="Images",
        ),
        Fields("images", ImagesSection, "folders --data", "Images"),
        Fields("fresh", "GeneratedImages", "every_steps", "Images"),
        Option(
            "adversarial_weight",
            float | None,
            "Weight of the adversarial loss: images on which student and zoo disagree (default: "
            "no such loss).",
            panel="Images",
        ),
        Fields(
            "distill",
            "Distill",
            "training.steps, training.batch_size, training.learning_rate, training.feature_weight",
            "Training",
        ),
        Option("ensemble", bool, "Learn the mean prediction of the zoo.", False, "", "Training"),
        Fields("distill", "Distill", "checkpoints", "Training"),
        *COMMON,
    ),
    _distill,
)

COMPRESSION_COMMANDS = (QUANTIZE, PRUNE, DISTILL)
