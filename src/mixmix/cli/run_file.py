"""A whole run as settings: what ``mixmix run`` reads, and what every command leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mixmix._settings import Settings
from mixmix._version import __version__
from mixmix.cli.options import NO_VALUE
from mixmix.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "DemoSection",
    "EvaluationSection",
    "ExportSection",
    "GenerationSection",
    "ImagesSection",
    "ModelSection",
    "Run",
    "SynthesisSection",
    "ZooSection",
]

_S = TypeVar("_S", bound="_WithSettings")


@dataclass(frozen=True)
class _Section(Settings):
    """A section whose fields without a value are left out of the file."""

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_dict().items() if value is not None}


@dataclass(frozen=True)
class ModelSection(_Section):
    """The network to compress.

    Attributes:
        reference: ``bundled:NAME``, timm:NAME, torchvision:NAME, hf:REPOSITORY or imagenet:NAME
            (followed by @FILE for your own weights), an .onnx or .pt2 file, or a model spec (.toml
            or .json).
    """

    reference: str


@dataclass(frozen=True)
class ZooSection(_Section):
    """The networks that images are synthesized from.

    Attributes:
        models: a network to invert, named like a --model (see ``ModelSection``); repeat for a
            mixture.
        weights: relative chance that a network is drawn, in the order of the networks (default: 1
            for each).
    """

    models: tuple[str, ...]
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class _WithSettings(_Section):
    """A section with the fields of a settings class beside its own."""

    settings: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        own = super().to_dict()
        settings: dict[str, Any] = own.pop("settings")
        return own | settings

    @classmethod
    def from_dict(cls: type[_S], content: Mapping[str, Any]) -> _S:
        own = {each.name for each in fields(cls)} - {"settings"}
        settings = {key: value for key, value in content.items() if key not in own}
        return super().from_dict(
            {key: value for key, value in content.items() if key in own} | {"settings": settings}
        )


@dataclass(frozen=True)
class SynthesisSection(_WithSettings):
    """Images by optimization; further keys are fields of ``SynthesisSettings``.

    Attributes:
        recipe: ``mixmix``, feature-mixing, data-mixing, deepinversion, zeroq, psaq-vit, noise, or
            refine (default: mixmix; with a start: refine). Defaults shown are those of mixmix.
        start: folder of images to start from, to adapt them to another network.
        memory_gib: limit on memory, in GiB (default: half of the memory).
        folder: for the images, within the folder of the run.
    """

    recipe: str | None = None
    start: Path | None = None
    memory_gib: float | None = None
    folder: Path = Path("images")


@dataclass(frozen=True)
class GenerationSection(_WithSettings):
    """Images from a generator; further keys are fields of ``AmortizedSettings``.

    Attributes:
        num_images: how many images.
        warmup_rounds: rounds that train the generator before any image is kept.
        folder: for the images, within the folder of the run.
    """

    num_images: int = 4096
    warmup_rounds: int = 20
    folder: Path = Path("images")


@dataclass(frozen=True)
class ImagesSection(_Section):
    """The images to compress with, joined to those that the run makes.

    Attributes:
        folders: folder written by 'mixmix synthesize' or 'mixmix generate'; repeat to join.
        held_out: images held out to estimate the loss of accuracy.
    """

    folders: tuple[Path, ...] = ()
    held_out: int = 0


@dataclass(frozen=True)
class ExportSection(_Section):
    """The file to write.

    Attributes:
        file: within the folder of the run: .onnx, .pt2 (PyTorch) or .safetensors (weights without
            zeros); without a model, a folder for the images as PNG files.
        optimize_for: size or speed, for .onnx files with 4 bits or fewer.
    """

    file: Path = Path("model.onnx")
    optimize_for: str = "size"


@dataclass(frozen=True)
class EvaluationSection(_Section):
    """Accuracy on labeled images.

    Attributes:
        model: a model, or a file within the folder of the run; default: what the run exports.
        data: CIFAR-10 folder, or for other label sets a folder with one subfolder of images per
            class (default: the 1,000 bundled CIFAR-10 test images).
        reference: a model whose predictions are compared.
    """

    model: str | None = None
    data: Path | None = None
    reference: str | None = None


@dataclass(frozen=True)
class DemoSection(_Section):
    """The demo.

    Attributes:
        compare: add results for other images of equal cost.
    """

    compare: bool = False


@dataclass(frozen=True)
class Run(_Section):
    """A whole run, from networks to a file and its accuracy.

    Every section may be left out. Relative paths start at the current folder, those of what the
    run writes at ``out``.

    Attributes:
        out: folder for the results.
        seed: seed of all random draws.
        device: device to compute on: cpu, cuda, cuda:1, mps ...
        threads: number of CPU threads (default: all cores).
        model: the network to compress.
        zoo: the networks that images are synthesized from.
        synthesis: images by optimization.
        generation: images from a generator.
        images: folders of images.
        methods: applied to the model in order: tables with ``method`` and its fields.
        export: the file to write.
        evaluation: accuracy on labeled images.
        demo: the demo; nothing else is done.

    Raises:
        InputError: if the sections do not fit together.
    """

    out: Path = Path()
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    model: ModelSection | None = None
    zoo: ZooSection | None = None
    synthesis: SynthesisSection | None = None
    generation: GenerationSection | None = None
    images: ImagesSection | None = None
    methods: tuple[Mapping[str, Any], ...] = ()
    export: ExportSection | None = None
    evaluation: EvaluationSection | None = None
    demo: DemoSection | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be >= 0, got {self.seed}")
        if self.synthesis and self.generation:
            raise InputError("give [synthesis] or [generation], not both")
        if self.makes_images and self.zoo is None:
            raise InputError("images are synthesized from networks; give [zoo] with its models")
        if self.methods and self.model is None:
            raise InputError("[[methods]] need a network; give [model] with its reference")

    @property
    def makes_images(self) -> bool:
        return self.synthesis is not None or self.generation is not None

    @property
    def record(self) -> Path:
        """Where the run is written: beside its only file, else in its folder."""
        file = None if self.export is None else self.export.file
        if file is None or not file.suffix or self.makes_images:
            return self.out / "run.toml"
        return (self.out / file).with_suffix(".run.toml")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Run:
        return super().from_dict(_with_none(content))

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a TOML file.

        Raises:
            InputError: if it cannot be read, or a section or key is unknown.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the run {path}: {error}") from error
        try:
            return cls.from_dict(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def write(self, command: str) -> Path:
        """Write the TOML file that makes the same run, and return its path."""
        import tomli_w

        from mixmix.runtime.storage import write_atomic

        text = tomli_w.dumps(_without_none(self.to_dict()))
        head = f"# mixmix {__version__}: {command}\n# Again: mixmix run {self.record}\n\n"
        write_atomic(self.record, (head + text).encode())
        return self.record


def _without_none(value: Any) -> Any:
    """For TOML, which has no null."""
    if isinstance(value, Mapping):
        return {key: _without_none(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_none(each) for each in value]
    return NO_VALUE if value is None else value


def _with_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_none(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_none(each) for each in value]
    return None if value == NO_VALUE else value
