"""``mixmix quantize``: a quantized network in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from mixmix.cli.options import NO_VALUE, Fields, Given, Option
from mixmix.cli.output import report_file
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix.compress.method import Compressed

__all__ = ["QUANTIZE", "quantization"]

_QUANTIZE = "mixmix.compress.quantize.quantize:Quantize"
_GRID, _LEARNING, _BUDGET, _TRAINING = "Grid", "Reconstruction", "Mixed precision", "Training"


def quantization(table: Mapping[str, Any], steps: int, checkpoints: str | None) -> dict[str, Any]:
    """The method that quantizes, or quantizes and then trains.

    Args:
        table: fields of ``Quantize``.
        steps: of training; 0 for none.
        checkpoints: folder of checkpoints of the training.
    """
    base = {"method": "quantize", **table}
    if not steps:
        return base
    method = {"method": "quantize-aware", "base": base, "training": {"steps": steps}}
    return method if checkpoints is None else method | {"checkpoints": checkpoints}


def _quantize(given: Given) -> None:
    from mixmix import Quantize

    outcome = do(
        given,
        {
            "model": given.fields("model"),
            "images": given.fields("images"),
            "methods": [_method(given)],
            **written_as(given["out"], given.fields("export")),
        },
    )
    assert outcome.compressed is not None
    _report_sensitivity(outcome.compressed, given["sensitivity"], as_json=given["json"])
    bits = given.fields("quantize").get("bits", Quantize.bits)
    report_file({"setting": bits.upper()}, outcome, given["json"])


def _method(given: Given) -> dict[str, Any]:
    table = given.fields("quantize")
    if given["all_layers"]:
        table["first_last_bits"] = NO_VALUE
    steps, training = given["train"], given.fields("training")
    budget = given.fields("mixed")
    choices = budget.pop("choices", None)
    if budget and steps:
        raise InputError(
            "--train needs the same bits for all layers; leave out --max-size and --max-bitops, or "
            "--train"
        )
    if choices is not None and not budget:
        raise InputError("--choices needs a budget; give --max-size or --max-bitops")
    if given["sensitivity"] is not None and not budget:
        raise InputError("--sensitivity needs a budget; give --max-size or --max-bitops")
    if training and not steps:
        raise InputError("--checkpoints is for training; give its steps with --train")
    if budget:
        chosen = {} if choices is None else {"choices": choices}
        base = {"method": "quantize", **table}
        return {"method": "mixed-precision", **budget, **chosen, "quantize": base}
    return quantization(table, steps, training.get("checkpoints"))


def _report_sensitivity(compressed: Compressed, path: Path | None, *, as_json: bool) -> None:
    """Print the sensitivities that bits were chosen by, and save them, if there are any."""
    from rich.console import Console

    from mixmix.compress.quantize.sensitivity_table import SensitivityTable
    from mixmix.report.sensitivity import print_sensitivity

    found = [each.results for each in compressed.applied if "sensitivity" in each.results]
    if not found:
        return
    table = SensitivityTable.from_dict(found[-1]["sensitivity"])
    if path is not None:
        table.save(path)
    if not as_json:
        print_sensitivity(table, Console(), layer_bits=found[-1]["layer_bits"])


QUANTIZE = Command(
    "quantize",
    help="Quantize a network on synthetic images and export it to ONNX or PyTorch's .pt2.",
    example="mixmix quantize -m bundled:resnet --data images --bits W4A8 --out resnet-w4a8.onnx",
    options=(
        MODEL,
        DATA,
        file_out("File to write: .onnx, or .pt2 for PyTorch."),
        Fields("export", "mixmix.cli.run_file:ExportSection", "optimize_for"),
        Fields("quantize", _QUANTIZE, "bits"),
        HELD_OUT,
        Option(
            "all_layers",
            bool,
            "Quantize the first and last layer like the others.",
            False,
            ("--all-layers",),
            panel=_GRID,
        ),
        Fields(
            "quantize",
            _QUANTIZE,
            "per_channel --per-channel/--per-tensor, "
            "symmetric_weights --symmetric-weights/--affine-weights, "
            "symmetric_activations --symmetric-activations/--affine-activations, "
            "equalize, correct_bias",
            panel=_GRID,
        ),
        Fields(
            "quantize",
            _QUANTIZE,
            "reconstruction.iterations, views, memory_gib",
            panel=_LEARNING,
        ),
        Fields(
            "mixed",
            "mixmix.compress.quantize.mixed_precision:MixedPrecision",
            "max_size_ratio --max-size, max_bitops_ratio --max-bitops, choices",
            panel=_BUDGET,
        ),
        Option(
            "sensitivity", Path | None, "JSON file to write the sensitivities to.", panel=_BUDGET
        ),
        Option(
            "train",
            int,
            "Steps of quantization-aware training; 0 for none.",
            0,
            panel=_TRAINING,
            minimum=0,
        ),
        Fields(
            "training",
            "mixmix.compress.quantize.quantize_aware:QuantizeAware",
            "checkpoints",
            panel=_TRAINING,
        ),
        PROCESS,
        JSON,
    ),
    call=_quantize,
)
