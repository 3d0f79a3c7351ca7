"""Runs as settings: the TOML files that ``mixmix run`` reads and that every command writes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mixmix._settings import Settings
from mixmix._version import __version__
from mixmix.errors import InputError, first_line

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# None on the command line and in TOML, which has no null.
NO_VALUE = "none"

_S = TypeVar("_S", bound="_WithSettings")


@dataclass(frozen=True)
class _Section(Settings):
    """A section; fields that are None are not written."""

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().to_dict().items() if value is not None}


@dataclass(frozen=True)
class _WithSettings(_Section):
    """A section whose other keys are fields of a settings class."""

    settings: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        content = super().to_dict()
        settings: dict[str, Any] = content.pop("settings")
        return content | settings

    @classmethod
    def from_dict(cls: type[_S], content: Mapping[str, Any]) -> _S:
        own = {each.name for each in fields(cls)} - {"settings"}
        settings = {key: value for key, value in content.items() if key not in own}
        return super().from_dict(
            {key: content[key] for key in own & content.keys()} | {"settings": settings}
        )


@dataclass(frozen=True)
class ModelSection(_Section):
    """The network to compress.

    Attributes:
        reference: bundled:NAME, timm:NAME, torchvision:NAME, hf:REPOSITORY or imagenet:NAME
            (followed by @FILE for your own weights), an .onnx or .pt2 file, or a model spec (.toml
            or .json).
    """

    reference: str


@dataclass(frozen=True)
class ZooSection(_Section):
    """The networks that images are synthesized from.

    Attributes:
        models: a network to synthesize images from, such as bundled:NAME, timm:NAME or a file (see
            ``ModelSection``); repeat for several.
        weights: relative probability of drawing a network, in the order of the networks (default:
            1 for each).
    """

    models: tuple[str, ...]
    weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class SynthesisSection(_WithSettings):
    """Images by optimization; other keys are fields of ``SynthesisSettings``.

    Attributes:
        recipe: ``mixmix``, feature-mixing, data-mixing, deepinversion, zeroq, refine,
            without-batch-norm, procedural, noise, or auto, which suits networks and size (default:
            mixmix; with --start: refine). The defaults shown are those of mixmix.
        start: folder of images to start from, to adapt them to another network.
        memory_gib: limit on memory, in GiB (default: half of the memory).
        folder: folder of the images, relative to that of the run.
    """

    recipe: str | None = None
    start: Path | None = None
    memory_gib: float | None = None
    folder: Path = Path("images")


@dataclass(frozen=True)
class GenerationSection(_WithSettings):
    """Images from a generator; other keys are fields of ``AmortizedSettings``.

    Attributes:
        num_images: number of images.
        warmup_rounds: rounds that train the generator before the first images are saved.
        folder: folder of the images, relative to that of the run.
    """

    num_images: int = 4096
    warmup_rounds: int = 20
    folder: Path = Path("images")


@dataclass(frozen=True)
class ImagesSection(_Section):
    """Existing images to compress with, in addition to those that the run synthesizes.

    Attributes:
        folders: folder written by 'mixmix synthesize' or 'mixmix generate', or of photographs
            without labels; repeat to combine.
        held_out: number of images held out to estimate the accuracy loss; 0 for no estimate
            (default: 64, or a quarter of fewer than 128 images).
    """

    folders: tuple[Path, ...] = ()
    held_out: int | None = None


@dataclass(frozen=True)
class SearchSection(_Section):
    """Limits that bits and channels are searched for, instead of taking them as given.

    Attributes:
        max_loss: largest estimated accuracy loss in points, at the upper bound of the estimate:
            search for the smallest or fastest .onnx file within it.
        max_size: largest size of the .onnx file, such as 500kB, 1.2MB, or 0.2 for a fraction of
            the float file; bits of weights are chosen per layer, those of activations are kept.
        aim: what --max-loss searches for: size or speed.
    """

    max_loss: float | None = None
    max_size: str | None = None
    aim: str = "size"


@dataclass(frozen=True)
class SweepSection(_Section):
    """Settings to compare, each in a file of its own.

    Attributes:
        settings: bits to compare, with commas between them.
        data: labeled images, as for 'mixmix evaluate', to measure the loss on (default: it is
            estimated on held-out images).
    """

    settings: tuple[str, ...] = ("W8A8", "W4A8", "W4A4", "W3A4")
    data: Path | None = None


@dataclass(frozen=True)
class ExportSection(_Section):
    """The file to write.

    Attributes:
        file: .onnx, .pt2 (PyTorch) or .safetensors (weights without zeros), relative to the folder
            of the run; without a model, a folder for the images as PNG files.
        optimize_for: goal for .onnx files with 4 bits or fewer: size or speed.
        with_preprocessing: write normalization into an .onnx file, which then takes bytes.
        layout: layout of these bytes: NHWC or NCHW.
        with_softmax: write softmax into an .onnx file, which then returns probabilities.
        sensitivity: JSON file for sensitivities.
    """

    file: Path = Path("model.onnx")
    optimize_for: str = "size"
    with_preprocessing: bool = False
    layout: str = "NHWC"
    with_softmax: bool = False
    sensitivity: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        self._require_one_of("layout", ("NHWC", "NCHW"))
        if (self.with_preprocessing or self.with_softmax) and self.file.suffix != ".onnx":
            raise InputError(
                f"--with-preprocessing and --with-softmax are for .onnx files, got {self.file}"
            )


@dataclass(frozen=True)
class EvaluationSection(_Section):
    """Accuracy on labeled images.

    Attributes:
        model: a model, or an .onnx or .pt2 file (default: the exported file).
        data: folder with a subfolder of images for each class, or .csv file with paths and labels
            (names or indices of classes); a folder may also have the cifar-10-batches-py of
            CIFAR-10 (default for networks of CIFAR-10: the 1,000 bundled test images).
        reference: a model to measure agreement with.
        explain: also compare each layer with that of the reference.
    """

    model: str | None = None
    data: Path | None = None
    reference: str | None = None
    explain: bool = False


@dataclass(frozen=True)
class Run(_Section):
    """A run: images, compression, the exported file, its accuracy.

    All sections are optional. Paths are relative to the current folder; paths of files that the
    run writes, at ``out``.

    Attributes:
        out: folder for the results.
        seed: seed of all random draws.
        device: device to compute on: cpu, cuda, cuda:1, mps ...
        threads: number of CPU threads (default: all cores).
        spec: fields of the specs of all networks, such as ``flip``.
        methods: tables with ``method`` and its fields, applied to the model in order.

    Raises:
        InputError: if the sections do not fit together.
    """

    out: Path = Path()
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    spec: Mapping[str, Any] | None = None
    model: ModelSection | None = None
    zoo: ZooSection | None = None
    synthesis: SynthesisSection | None = None
    generation: GenerationSection | None = None
    images: ImagesSection | None = None
    methods: tuple[Mapping[str, Any], ...] = ()
    search: SearchSection | None = None
    sweep: SweepSection | None = None
    export: ExportSection | None = None
    evaluation: EvaluationSection | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed must be >= 0, got {self.seed}")
        if self.synthesis and self.generation:
            raise InputError("use either [synthesis] or [generation], not both")
        if self.image_section and self.zoo is None and self.model is None:
            raise InputError("images are synthesized from networks; add [zoo] with its models")
        if self.search and [each.get("method") for each in self.methods] != ["quantize"]:
            others = [str(each.get("method")) for each in self.methods]
            raise InputError(
                "a search for --max-loss or --max-size quantizes, and nothing else, got "
                f"{' and '.join(others) or 'no method'}; leave out --prune, --train, --max-bitops "
                "and other methods of --recipe, or the limits"
            )
        if self.sweep and (self.model is None or self.methods or self.search or self.export):
            raise InputError(
                "a sweep quantizes a network and writes a file for each setting; add [model], and "
                "leave out [[methods]], [search] and [export]"
            )
        if self.search and (self.export is None or self.export.file.suffix != ".onnx"):
            raise InputError("a search for --max-loss or --max-size writes an .onnx file; name one")
        if self.methods and self.model is None:
            raise InputError("[[methods]] need a network; add [model] with its reference")

    @property
    def image_section(self) -> SynthesisSection | GenerationSection | None:
        """How images are synthesized, if they are."""
        return self.synthesis or self.generation

    @property
    def writes_files(self) -> bool:
        return bool(self.image_section or self.export or self.sweep)

    @property
    def files(self) -> list[Path]:
        """Files that the run writes."""
        if not self.writes_files:
            return []
        is_model = self.model is not None and self.export is not None
        file = [self.out / self.export.file] if is_model and self.export else []
        return [self.path, self.page, *([self.card] if file else []), *file]

    @property
    def card(self) -> Path:
        """Path of the model card."""
        return self.page.with_suffix(".card.md")

    @property
    def page(self) -> Path:
        """Path of the HTML page on the run."""
        if self.path.name == "run.toml":
            return self.out / "index.html"
        return self.path.with_name(self.path.name.removesuffix(".run.toml") + ".html")

    @property
    def written(self) -> list[str]:
        """Files and folders that the run writes, as people type them."""
        folder = [] if self.image_section is None else [f"{self.out / self.image_section.folder}/"]
        return [*map(str, reversed(self.files)), *folder]

    @property
    def path(self) -> Path:
        """Path of the run's file: next to its only file, or in its folder."""
        file = None if self.export is None else self.export.file
        if file is None or not file.suffix:
            return self.out / "run.toml"
        return (self.out / file).with_suffix(".run.toml")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Run:
        return super().from_dict(_replaced(content, NO_VALUE, None))

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a TOML file.

        Raises:
            InputError: if it cannot be read, or a section or key is unknown.
        """
        content = read_toml(path, "the run")
        try:
            run = cls.from_dict(content)
            if not (run.writes_files or run.methods or run.evaluation):
                raise InputError(
                    "nothing to run; add [synthesis], [generation], [[methods]], [sweep], [export] "
                    "or [evaluation]"
                )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return run

    def write(self, command: str) -> None:
        """Write the TOML file that reproduces the run."""
        import tomli_w

        from mixmix.runtime.storage import write_atomic

        text = tomli_w.dumps(_replaced(self.to_dict(), None, NO_VALUE))
        head = f"# mixmix {__version__}: {command}\n# Again: mixmix run {self.path}\n\n"
        write_atomic(self.path, (head + text).encode())


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: if it cannot be read.
    """
    from mixmix.runtime.storage import read_text

    try:
        return tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {what} {path}: {first_line(error)}") from error


def _replaced(value: Any, old: Any, new: Any) -> Any:
    """Nested tables and lists in which one value is replaced by another."""
    if isinstance(value, Mapping):
        return {key: _replaced(each, old, new) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, old, new) for each in value]
    return new if value == old else value
