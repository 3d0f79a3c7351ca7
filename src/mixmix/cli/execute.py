"""Executes a run: images, compression, the exported file, its accuracy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixmix.cli.inputs import labeled_images, load_images, load_zoo
from mixmix.cli.process import prepare, print_schedule, progress_bar
from mixmix.cli.run_file import EvaluationSection, GenerationSection, Run, SynthesisSection
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix import (
        Artifact,
        Compressed,
        Estimate,
        Evaluation,
        ImageSet,
        Method,
        Model,
        SensitivityTable,
        Zoo,
    )
    from mixmix.evaluate.evaluation import Evaluated

__all__ = ["Outcome", "execute"]

_FORMATS = {".onnx": "onnx", ".pt2": "pt2e", ".safetensors": "sparse"}
_PROBE_IMAGES = 256


@dataclass
class Outcome:
    """The results of a run; None for what it does not do.

    ``model`` is the model before compression, ``image_folder`` the exported folder of PNG files;
    ``is_main`` says whether this process prints and writes the results.
    """

    run: Run
    images: ImageSet | None = None
    contact_sheet: Path | None = None
    model: Model | None = None
    methods: tuple[Method, ...] = ()
    compressed: Compressed | None = None
    artifact: Artifact | None = None
    image_folder: Path | None = None
    estimate: Estimate | None = None
    evaluation: Evaluation | None = None
    is_main: bool = True

    @property
    def sensitivity(self) -> tuple[SensitivityTable, dict[str, str]] | None:
        """The sensitivities that bits were chosen by, and the bits of each layer."""
        from mixmix import SensitivityTable

        for method in reversed(() if self.compressed is None else self.compressed.applied):
            if "sensitivity" in method.results:
                table = SensitivityTable.from_dict(method.results["sensitivity"])
                return table, method.results["layer_bits"]
        return None


def execute(run: Run) -> Outcome:
    """Execute a run, section by section.

    Settings and networks are read before anything is computed, so that mistakes show early.

    Raises:
        InputError: if something is unknown, missing or does not fit together.
        ExportError: if the exported file does not agree with the model.
    """
    from mixmix import Method
    from mixmix.runtime.distributed import is_main, local_device
    from mixmix.runtime.storage import check_writable

    shared = run.synthesis is not None and not (run.methods or run.export or run.evaluation)
    device = local_device(run.device) if shared else run.device
    prepare(device, run.threads, distributed=shared)
    outcome = Outcome(run, is_main=is_main())
    if outcome.is_main:
        for path in run.files:
            check_writable(path)
    if run.model is not None and run.export is not None:
        _format(run.export.file)
    outcome.methods = tuple(_on_device(Method.from_dict(table), device) for table in run.methods)
    settings = _image_settings(run)
    if run.images is not None and run.images.folders:
        outcome.images = load_images(run.images.folders)
    if run.model is not None:
        outcome.model = load_zoo((run.model.reference,), device)[0]
    if run.image_section is not None and run.zoo is not None:
        zoo = load_zoo(run.zoo.models, device, run.zoo.weights)
        made = _make_images(run, run.image_section, zoo, settings, outcome)
        outcome.images = made if outcome.images is None else made.join([made, outcome.images])
    if outcome.model is not None:
        _compress(outcome.model, outcome)
    elif run.export is not None:
        if outcome.images is None:
            raise InputError("nothing to export; add [model], [images] or [synthesis]")
        outcome.image_folder = outcome.images.export_image_folder(run.out / run.export.file)
    if run.evaluation is not None:
        outcome.evaluation = _evaluate(run.evaluation, outcome, device)
    return outcome


def _on_device(settings: Any, device: str) -> Any:
    """Settings whose zoos, which are read to the CPU, are on another device."""
    from mixmix import Zoo

    if device == "cpu":
        return settings
    if isinstance(settings, Zoo):
        return Zoo.load(list(settings), weights=settings.weights, device=device)
    if isinstance(settings, tuple):
        return tuple(_on_device(each, device) for each in settings)
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return settings
    fields = [field.name for field in dataclasses.fields(settings) if field.init]
    values = {name: _on_device(getattr(settings, name), device) for name in fields}
    return dataclasses.replace(settings, **values)


def _image_settings(run: Run) -> Any:
    from mixmix import AmortizedSettings, recipe

    if run.generation is not None:
        return AmortizedSettings().updated(run.generation.settings)
    if run.synthesis is None:
        return None
    if run.synthesis.start is not None and "num_images" in run.synthesis.settings:
        raise InputError(
            "the start determines the number of images; leave out --num-images (num_images)"
        )
    default = "mixmix" if run.synthesis.start is None else "refine"
    return recipe(run.synthesis.recipe or default).updated(run.synthesis.settings)


def _make_images(
    run: Run,
    section: SynthesisSection | GenerationSection,
    zoo: Zoo,
    settings: Any,
    outcome: Outcome,
) -> ImageSet:
    from mixmix import generate, synthesize
    from mixmix.runtime.distributed import process_group

    folder = run.out / section.folder
    if isinstance(section, GenerationSection):
        with progress_bar("generating") as advance:
            images = generate(
                zoo,
                settings,
                num_images=section.num_images,
                seed=run.seed,
                warmup_rounds=section.warmup_rounds,
                out=folder,
                on_progress=lambda done, total: advance("generating", done / total),
            )
    else:
        start = None if section.start is None else load_images([section.start])
        with (
            process_group(str(zoo.device)),
            progress_bar("synthesizing", shown=outcome.is_main) as advance,
        ):
            images = synthesize(
                zoo,
                settings,
                seed=run.seed,
                out=folder,
                start=start,
                threads=run.threads,
                memory_gib=section.memory_gib,
                on_plan=print_schedule,
                on_progress=lambda done, total: advance("synthesizing", done / max(total, 1)),
            )
    if outcome.is_main and images.images.shape[1] in (1, 3):
        outcome.contact_sheet = images.contact_sheet(folder / "contact-sheet.png")
    return images


def _compress(model: Model, outcome: Outcome) -> None:
    """Compress a model, export it, and estimate the accuracy loss."""
    from mixmix import Compressed, compress, estimate_accuracy, export
    from mixmix.export.verify import MIN_PROBE_IMAGES

    run, images = outcome.run, outcome.images
    compressed, held_out, probe = Compressed(model.module, model.spec), None, None
    if run.methods:
        # The outputs of fewer images are too noisy to verify the file with.
        if images is not None and len(images) >= MIN_PROBE_IMAGES:
            probe = images.images[:_PROBE_IMAGES]
        if images is not None and run.images is not None and run.images.held_out:
            images, held_out = images.split(len(images) - run.images.held_out)
        with progress_bar("compressing") as advance:
            compressed = compress(
                model, images, outcome.methods, seed=run.seed, on_progress=advance
            )
    outcome.compressed = compressed
    if run.export is not None:
        outcome.artifact = export(
            compressed,
            run.out / run.export.file,
            format=_format(run.export.file),
            optimize_for=run.export.optimize_for,
            probe=probe,
        )
    if held_out is not None:
        outcome.estimate = estimate_accuracy(_executable(outcome), model, held_out)


def _executable(outcome: Outcome) -> Any:
    """The exported file, or the model if the file holds weights alone or there is none."""
    artifact = outcome.artifact
    is_graph = artifact is not None and artifact.format != "sparse"
    return artifact if is_graph else outcome.compressed


def _format(file: Path) -> str:
    if file.suffix not in _FORMATS:
        raise InputError(f"--out must name a file that ends in {', '.join(_FORMATS)}, got {file}")
    return _FORMATS[file.suffix]


def _evaluate(section: EvaluationSection, outcome: Outcome, device: str) -> Evaluation:
    from mixmix import evaluate
    from mixmix.evaluate.evaluation import Predictor

    def loaded(reference: str | None) -> Evaluated | None:
        if reference is None:
            return None
        if reference.endswith((".onnx", ".pt2")):
            return Path(reference)  # evaluated as it is
        return load_zoo((reference,), device)[0]

    model = _executable(outcome) if section.model is None else loaded(section.model)
    if model is None:
        raise InputError("nothing to evaluate; add [model], or a model in [evaluation]")
    reference = loaded(section.reference)
    data = labeled_images(section.data, lambda: Predictor(model, device=device).spec)
    with progress_bar("evaluating") as advance:
        return evaluate(model, data, reference=reference, device=device, on_progress=advance)
