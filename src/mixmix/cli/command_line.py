"""What the options of all commands set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mixmix.cli.run_file import Run

if TYPE_CHECKING:
    from mixmix import (
        AmortizedSettings,
        Distill,
        FineTune,
        GeneratedImages,
        MixedPrecision,
        ModelSpec,
        Prune,
        PruneChannels,
        Quantize,
        QuantizeAware,
        SynthesisSettings,
    )

__all__ = ["CommandLine"]


class CommandLine(Run):  # not a dataclass: it has no instances
    """A run, and what commands make its methods, images and files from.

    It is only read: options have the types, defaults and texts of its fields, at any depth.

    Attributes:
        json: print one JSON object.
        spec: of all networks.
        file: file to write.
        folder: folder for the results.
        source: what the command reads.
        layers: print a table of all layers.
        fraction: fraction of the multiplications to remove, by pruning channels, in (0, 1).
        recipe: TOML file with [[methods]] and [synthesis], as in a run file, instead of --bits and
            --prune.
        class_file: names of the classes: a text file with one per line, or a JSON file.
        synthetic: synthesize images in addition to those of --images and --data.
        other: model to compare with.
        explain: print the error of each layer, compared with the original.
        keep: layer to keep in float, or with other bits as LAYER=W8A8; repeat for several.
        compare: add results for other images of equal cost.
        all_layers: quantize first and last layer like the others.
        train: steps of quantization-aware training; 0 for none.
        blocks: prune residual blocks instead of channels.
        recovery: ``bn``, reconstruct or fine-tune; repeat to apply several in order. none for no
            recovery.
        then_quantize: bits to quantize to after pruning, such as W8A8.
        then_train: steps of quantization-aware training after --then-quantize; the teacher is the
            network before pruning.
        student: a model as in --model; its architecture gets fresh weights.
        networks: a network to synthesize images from during training; repeat for several. Without
            any, only those of --images are used.
    """

    json: bool = False
    spec: ModelSpec  # type: ignore[assignment]  # in tables, its fields that are given
    file: Path | None = None
    folder: Path = Path("sweep")
    source: str = ""
    layers: bool = False
    fraction: float | None = None
    recipe: Path | None = None
    class_file: Path | None = None
    synthetic: bool = False
    other: str = ""
    explain: bool = False
    keep: tuple[str, ...] = ()
    compare: bool = False
    settings: SynthesisSettings
    generator: AmortizedSettings
    quantize: Quantize
    all_layers: bool = False
    mixed: MixedPrecision
    train: int = 0
    training: QuantizeAware
    prune: Prune
    channels: PruneChannels
    blocks: bool = False
    recovery: tuple[str, ...] = ("reconstruct", "fine-tune")
    tuning: FineTune
    then_quantize: str | None = None
    then_train: int = 0
    distill: Distill
    student: str = ""
    networks: tuple[str, ...] = ()
    fresh: GeneratedImages
