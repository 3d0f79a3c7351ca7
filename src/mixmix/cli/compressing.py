"""What commands share that compress a network with images and write the result to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixmix.cli.common import load_images, report
from mixmix.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from mixmix.compress.method import Compressed, LayerRecord
    from mixmix.compress.quantize.quantize import Quantize
    from mixmix.compress.quantize.quantize_aware import QuantizeAware
    from mixmix.data.image_set import ImageSet
    from mixmix.evaluate.estimation import Estimate
    from mixmix.evaluate.evaluation import Evaluated
    from mixmix.export import Artifact

__all__ = [
    "DataOption",
    "HeldOutOption",
    "Images",
    "format_of",
    "option",
    "quantization",
    "report_file",
]

_PROBE_IMAGES = 256

DataOption = Annotated[
    list[Path],
    typer.Option(help="Folder made by 'mixmix synthesize' or 'mixmix generate'; repeat to join."),
]
HeldOutOption = Annotated[
    int, typer.Option(help="Images kept back, on which the accuracy lost is estimated.", min=0)
]


def option(text: str, *names: str, panel: str, **checks: Any) -> Any:
    """An option below a heading of its own in the help."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **checks)


def format_of(out: Path, formats: Mapping[str, str]) -> str:
    """The format that a file's name asks for.

    Args:
        out: the file.
        formats: by the ends of names.

    Raises:
        InputError: if it is none that can be written.
    """
    if out.suffix not in formats:
        raise InputError(f"--out must name a file that ends in {', '.join(formats)}, got {out}")
    return formats[out.suffix]


def quantization(base: Quantize, steps: int, checkpoints: Path | None) -> Quantize | QuantizeAware:
    """Quantization alone, or with so many steps of training behind it.

    Args:
        base: how to quantize.
        steps: of training; 0 for none.
        checkpoints: folder that training goes on from.
    """
    if not steps:
        return base
    from mixmix.compress.quantize.quantize_aware import QuantizeAware

    training = replace(QuantizeAware().training, steps=steps)
    return QuantizeAware(base, training, checkpoints=checkpoints)


@dataclass(frozen=True)
class Images:
    """The images of one folder or several, shared out.

    Attributes:
        used: to compress with.
        judged: held out to estimate what that costs, or None.
        probe: to check the file with, or None to take noise.
    """

    used: ImageSet
    judged: ImageSet | None
    probe: Tensor | None

    @classmethod
    def load(cls, folders: Sequence[Path], *, held_out: int) -> Images:
        """Read the folders, and hold out the last images, of each as large a share."""
        from mixmix.export.verify import MIN_PROBE_IMAGES

        used, judged = load_images(*folders), None
        # A check on too few would refuse, when all is done, what noise can check as well.
        probe = used.images[:_PROBE_IMAGES] if len(used) >= MIN_PROBE_IMAGES else None
        if held_out:
            used, judged = used.split(len(used) - held_out)
        return cls(used, judged, probe)

    def estimate(self, model: Evaluated, teacher: Evaluated) -> Estimate | None:
        """What the compression costs, from the images held out; None without any."""
        from mixmix.evaluate.estimation import estimate_accuracy

        return None if self.judged is None else estimate_accuracy(model, teacher, self.judged)


def report_file(
    content: Mapping[str, Any],
    compressed: Compressed,
    artifact: Artifact,
    estimate: Estimate | None,
    *,
    title: str,
    as_json: bool,
) -> None:
    """Print what was written, what it may cost, and what happened to each layer.

    Args:
        content: what is the command's own.
        compressed: the model.
        artifact: its file.
        estimate: of the accuracy lost, or None.
        title: of the table.
        as_json: whether to print one JSON object in place of it.
    """
    if estimate is not None:
        low, high = estimate.predicted_drop_interval
        title += (
            f"; estimated loss of accuracy {estimate.predicted_drop:.1f} points "
            f"({low:.1f} to {high:.1f}), agreement {estimate.agreement:.1f}%"
        )
    common = {
        "model": compressed.spec.name,
        "out": str(artifact.path),
        "size_bytes": artifact.size_bytes,
        "agreement_with_pytorch": artifact.agreement,
        "estimate": None if estimate is None else estimate.to_dict(),
        "layers": [record.to_dict() for record in compressed.records],
    }
    report({**content, **common}, _layer_rows(compressed.records), as_json, title=title)


def _layer_rows(records: Sequence[LayerRecord]) -> list[dict[str, Any]]:
    """Records as rows of a table, without columns that none of them has anything in."""
    rows = [record.to_dict() for record in records]
    for row in rows:
        for side in ("in_channels", "out_channels"):
            row[side] = _before_and_after(row[side])
    for name in ("sparsity", "in_channels", "out_channels"):
        if all(row[name] is None for row in rows):
            for row in rows:
                del row[name]
    return rows


def _before_and_after(channels: tuple[int, int] | None) -> str | None:
    if channels is None:
        return None
    before, after = channels
    return str(before) if before == after else f"{before}→{after}"
