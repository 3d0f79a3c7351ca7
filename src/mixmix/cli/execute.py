"""Does what a run says: images, compression, the file, its accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixmix.cli.build import MethodBuilder, changed
from mixmix.cli.process import load_images, load_zoo, prepare, print_schedule, progress_bar
from mixmix.cli.run_file import EvaluationSection, GenerationSection, Run, SynthesisSection
from mixmix.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from mixmix import (
        AmortizedSettings,
        Artifact,
        Compressed,
        Estimate,
        Evaluation,
        ImageSet,
        Method,
        Model,
        SynthesisSettings,
        Zoo,
    )
    from mixmix.evaluate.evaluation import Evaluated

__all__ = ["Outcome", "execute"]

_FORMATS = {".onnx": "onnx", ".pt2": "pt2e", ".safetensors": "sparse"}
_PROBE_IMAGES = 256


@dataclass
class Outcome:
    """What a run made; None where it was not asked for.

    Attributes:
        images: that the run made, or those of its folders.
        contact_sheet: of the images that the run made.
        model: before compression.
        methods: that were applied.
        compressed: the model after all methods.
        artifact: its file.
        image_folder: of PNG files.
        estimate: of the loss of accuracy, from the images held out.
        evaluation: on labeled images.
        demo: content of the demo's ``result.json``.
        is_main: whether this process prints and writes the results.
    """

    images: ImageSet | None = None
    contact_sheet: Path | None = None
    model: Model | None = None
    methods: tuple[Method, ...] = ()
    compressed: Compressed | None = None
    artifact: Artifact | None = None
    image_folder: Path | None = None
    estimate: Estimate | None = None
    evaluation: Evaluation | None = None
    demo: dict[str, Any] | None = None
    is_main: bool = True


def execute(run: Run) -> Outcome:
    """Do a run from its first section to its last.

    Settings and networks are read before anything is computed, so that mistakes show early.

    Raises:
        InputError: if something is unknown, missing or does not fit together.
        ExportError: if the file does not compute what the model does.
    """
    from mixmix.runtime import distributed

    shared = run.synthesis is not None and not (run.methods or run.export or run.evaluation)
    device = distributed.local_device(run.device) if shared else run.device
    prepare(device, run.threads, together=shared)
    if run.demo is not None:
        return Outcome(demo=_demo(run, compare=run.demo.compare))
    if run.model is not None and run.export is not None:
        _format(run.export.file)
    builder = MethodBuilder(device)
    outcome = Outcome(methods=tuple(builder.method(table) for table in run.methods))
    folders = None if run.images is None or not run.images.folders else run.images.folders
    settings = _settings(run)
    images = None if folders is None else load_images(folders)
    model = None if run.model is None else load_zoo((run.model.reference,), None, device)[0]
    if run.zoo is not None and settings is not None:
        zoo = load_zoo(run.zoo.models, run.zoo.weights, device)
        made = _make_images(run, zoo, settings, outcome)
        images = made if images is None else images.join([made, images])
    outcome.images, outcome.model, outcome.is_main = images, model, distributed.is_main()
    if model is not None:
        _compress(run, model, outcome)
    elif run.export is not None:
        if images is None:
            raise InputError("there is nothing to export; give [model], [images] or [synthesis]")
        outcome.image_folder = images.export_image_folder(run.out / run.export.file)
    if run.evaluation is not None:
        outcome.evaluation = _evaluate(run.evaluation, outcome, device)
    return outcome


def _settings(run: Run) -> SynthesisSettings | AmortizedSettings | None:
    """How images are made, if they are."""
    from mixmix import AmortizedSettings, recipe

    if run.generation is not None:
        settings: AmortizedSettings = changed(AmortizedSettings(), run.generation.settings)
        return settings
    if run.synthesis is None:
        return None
    if run.synthesis.start is not None and "num_images" in run.synthesis.settings:
        raise InputError(
            "from a start, as many images are made as it holds; leave out --num-images (num_images)"
        )
    default = "mixmix" if run.synthesis.start is None else "refine"
    made: SynthesisSettings = changed(
        recipe(run.synthesis.recipe or default), run.synthesis.settings
    )
    return made


def _make_images(run: Run, zoo: Zoo, settings: Any, outcome: Outcome) -> ImageSet:
    if run.generation is not None:
        folder = run.out / run.generation.folder
        images = _generate(run, run.generation, zoo, settings, folder)
    else:
        assert run.synthesis is not None
        folder = run.out / run.synthesis.folder
        images = _synthesize(run, run.synthesis, zoo, settings, folder)
    from mixmix.runtime import distributed

    if distributed.is_main() and images.images.shape[1] in (1, 3):
        outcome.contact_sheet = images.contact_sheet(folder / "contact-sheet.png")
    return images


def _synthesize(
    run: Run, section: SynthesisSection, zoo: Zoo, settings: SynthesisSettings, folder: Path
) -> ImageSet:
    from mixmix import synthesize
    from mixmix.runtime import distributed

    start = None if section.start is None else load_images([section.start])
    with (
        distributed.process_group(str(zoo.device)),
        progress_bar("synthesizing", shown=distributed.is_main()) as advance,
    ):
        return synthesize(
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


def _generate(
    run: Run, section: GenerationSection, zoo: Zoo, settings: AmortizedSettings, folder: Path
) -> ImageSet:
    from mixmix import generate

    with progress_bar("generating") as advance:
        return generate(
            zoo,
            settings,
            num_images=section.num_images,
            seed=run.seed,
            warmup_rounds=section.warmup_rounds,
            out=folder,
            on_progress=lambda done, total: advance("generating", done / total),
        )


def _compress(run: Run, model: Model, outcome: Outcome) -> None:
    """Compress a model, write it, and estimate the loss of accuracy."""
    from mixmix import Compressed, compress, estimate_accuracy, export

    compressed, judged, probe = Compressed(model.module, model.spec), None, None
    if run.methods:
        used, judged, probe = _shared_out(
            outcome.images, 0 if run.images is None else run.images.held_out
        )
        with progress_bar("compressing") as advance:
            compressed = compress(model, used, outcome.methods, seed=run.seed, on_progress=advance)
    outcome.compressed = compressed
    if run.export is not None:
        outcome.artifact = export(
            compressed,
            run.out / run.export.file,
            format=_format(run.export.file),
            optimize_for=run.export.optimize_for,
            probe=probe,
        )
    if judged is not None:
        # A sparse file holds weights alone; it computes what the model does.
        runs = outcome.artifact is not None and outcome.artifact.format != "sparse"
        outcome.estimate = estimate_accuracy(
            outcome.artifact if runs and outcome.artifact else compressed, model, judged
        )


def _shared_out(
    images: ImageSet | None, held_out: int
) -> tuple[ImageSet | None, ImageSet | None, Tensor | None]:
    """Images to compress with, those held out, and some to check the file with."""
    from mixmix.export.verify import MIN_PROBE_IMAGES

    if images is None:
        return None, None, None
    # With fewer, noise checks the file as well, and does not refuse a good one.
    probe = images.images[:_PROBE_IMAGES] if len(images) >= MIN_PROBE_IMAGES else None
    if not held_out:
        return images, None, probe
    used, judged = images.split(len(images) - held_out)
    return used, judged, probe


def _format(file: Path) -> str:
    if file.suffix not in _FORMATS:
        raise InputError(f"--out must name a file that ends in {', '.join(_FORMATS)}, got {file}")
    return _FORMATS[file.suffix]


def _evaluate(section: EvaluationSection, outcome: Outcome, device: str) -> Evaluation:
    from mixmix import evaluate
    from mixmix.cli.labeled_images import labeled_images
    from mixmix.evaluate.evaluation import Predictor

    def loaded(reference: str) -> Evaluated:
        # Files of graphs run as they are.
        is_graph = reference.endswith((".onnx", ".pt2"))
        return Path(reference) if is_graph else load_zoo((reference,), None, device)[0]

    model: Evaluated | None
    if section.model is not None:
        model = loaded(section.model)
    elif outcome.artifact is not None and outcome.artifact.format != "sparse":
        model = outcome.artifact
    else:
        model = outcome.compressed
    if model is None:
        raise InputError("there is nothing to evaluate; give [model], or a model in [evaluation]")
    reference = None if section.reference is None else loaded(section.reference)
    data = labeled_images(section.data, lambda: Predictor(model, device=device).spec)
    with progress_bar("evaluating") as advance:
        return evaluate(model, data, reference=reference, device=device, on_progress=advance)


def _demo(run: Run, *, compare: bool) -> dict[str, Any]:
    from mixmix.demo.demo import run_demo

    with progress_bar("demo") as advance:
        return run_demo(
            run.out, seed=run.seed, device=run.device, compare=compare, on_progress=advance
        )
