"""Executes a run: images, compression, the exported file, its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixmix._settings import Settings
from mixmix.cli.costs import measure_costs
from mixmix.cli.inputs import labeled_images, load_images, load_zoo, spec_fields
from mixmix.cli.process import prepare, print_schedule
from mixmix.cli.run_file import GenerationSection, Run
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix import Artifact, Compressed, ImageSet, Method, Model, SensitivityTable, Zoo
    from mixmix.search import SearchResult

__all__ = ["Outcome", "execute"]

_SUFFIXES = (".onnx", ".pt2", ".safetensors")
_SHEET = "contact-sheet.png"
_PROBE_IMAGES = 256
_AUTOMATIC = "auto"
# Images held out for the estimate, if the run does not say how many.
_HELD_OUT = 64


@dataclass
class Outcome:
    """The results of a run.

    Attributes:
        facts: by section of the run, in plain JSON types.
        compressed: the compressed model, if there is one.
        images: all images of the run, if there are any.
        searched: the sensitivities of a search, if it has chosen bits by them.
    """

    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    compressed: Compressed | None = None
    images: ImageSet | None = None
    searched: SensitivityTable | None = None

    @property
    def sensitivity(self) -> tuple[SensitivityTable, dict[str, str]] | None:
        """The sensitivities that bits were chosen by, and the bits of each layer."""
        from mixmix import SensitivityTable

        for method in reversed(() if self.compressed is None else self.compressed.applied):
            if "sensitivity" in method.results:
                table = SensitivityTable.from_dict(method.results["sensitivity"])
                return table, method.results["layer_bits"]
            if self.searched is not None and method.settings.get("layer_bits"):
                return self.searched, method.settings["layer_bits"]
        return None


def execute(run: Run) -> Outcome:
    """Execute a run, section by section.

    Settings and networks are read before anything is computed, so that mistakes show early.

    Raises:
        InputError: if something is unknown, missing or does not fit together.
        ExportError: if the exported file does not agree with the model.
    """
    from mixmix import Method
    from mixmix.compress.automatic import affordable
    from mixmix.runtime.distributed import is_main, local_device
    from mixmix.runtime.storage import check_writable

    rest = run.methods or run.export or run.evaluation or run.sweep
    shared = run.synthesis is not None and not rest
    device = local_device(run.device) if shared else run.device
    prepare(device, run.threads, distributed=shared)
    if is_main():
        for path in run.files:
            check_writable(path)
    if run.model and run.export and run.export.file.suffix not in _SUFFIXES:
        raise InputError(
            f"--out must name a file that ends in {', '.join(_SUFFIXES)}, got {run.export.file}"
        )
    if run.search is not None:
        from mixmix.search.limits import Limits

        Limits(**run.search.to_dict())  # raises before anything is computed
    for bits in run.sweep.settings if run.sweep else ():
        Method.from_dict({"method": "quantize", "bits": bits})
    methods = tuple(_adapted(Method.from_dict(table), run, device) for table in run.methods)
    settings = _image_settings(run)
    model = load_zoo((run.model.reference,), device, spec=run.spec)[0] if run.model else None
    images = load_images(run.images.folders, model) if run.images and run.images.folders else None
    outcome, artifact = Outcome(), None
    if run.image_section:
        zoo = _zoo(run, model, device)
        made = _make_images(run, zoo, _suited(settings, run, zoo))
        images = made if images is None else made.join([made, images])
    outcome.images = images
    if images is not None:
        outcome.facts["images"] = _image_facts(run, images)
    if run.sweep is not None and model is not None:
        outcome.facts["sweep"] = _sweep(run, model, images)
        return outcome
    if model is not None:
        if run.synthesis is not None and run.synthesis.recipe == _AUTOMATIC:
            methods = tuple(affordable(each, model) for each in methods)
        artifact = _compress(run, model, methods, images, outcome)
    elif run.export is not None:
        if images is None:
            raise InputError("nothing to export; add [model], [images] or [synthesis]")
        folder = images.export_image_folder(run.out / run.export.file)
        outcome.facts["export"] = {"out": str(folder)}
    if model is not None and run.evaluation is not None and run.evaluation.explain:
        is_readable = artifact is not None and artifact.format == "onnx"
        executable = artifact if is_readable else outcome.compressed
        outcome.facts["layers"] = {
            "layer_errors": _explain(executable, model, images, spec_fields(run.spec))
        }
    elif run.evaluation is not None:
        executable = _executable(artifact, outcome.compressed)
        outcome.facts["evaluation"] = _evaluate(run, executable, device)
    return outcome


def _adapted(settings: Any, run: Run, device: str) -> Any:
    """Settings whose zoos, which are read to the CPU, are on a device and have the run's specs."""
    from mixmix import Zoo

    if device == "cpu" and not run.spec:
        return settings
    if isinstance(settings, Zoo):
        return load_zoo(settings, device, settings.weights, run.spec)
    if isinstance(settings, tuple):
        return tuple(_adapted(each, run, device) for each in settings)
    if not isinstance(settings, Settings):
        return settings
    names = [each.name for each in fields(settings) if each.init]  # type: ignore[arg-type]
    values = {name: _adapted(getattr(settings, name), run, device) for name in names}
    return replace(settings, **values)  # type: ignore[type-var]


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
    name = run.synthesis.recipe or default
    return recipe(default if name == _AUTOMATIC else name).updated(run.synthesis.settings)


def _zoo(run: Run, model: Model | None, device: str) -> Zoo:
    """The networks that images are synthesized from: by default, the model itself."""
    from mixmix import Zoo

    if run.zoo is not None:
        return load_zoo(run.zoo.models, device, run.zoo.weights, run.spec)
    assert model is not None
    return Zoo([model])


def _suited(settings: Any, run: Run, zoo: Zoo) -> Any:
    """The settings, or those that suit the networks."""
    from mixmix.synthesis.automatic import settings_for

    if run.synthesis is None or run.synthesis.recipe != _AUTOMATIC:
        return settings
    return settings_for(zoo).updated(run.synthesis.settings)


def _make_images(run: Run, zoo: Zoo, settings: Any) -> ImageSet:
    """Synthesize or generate images into a folder, with a contact sheet of them."""
    from mixmix import generate, synthesize
    from mixmix.runtime.distributed import is_main, process_group

    section = run.image_section
    assert section is not None
    folder = run.out / section.folder
    with process_group(str(zoo.device)):
        if isinstance(section, GenerationSection):
            images = generate(
                zoo,
                settings,
                num_images=section.num_images,
                seed=run.seed,
                warmup_rounds=section.warmup_rounds,
                out=folder,
            )
        else:
            images = synthesize(
                zoo,
                settings,
                seed=run.seed,
                out=folder,
                start=None if section.start is None else load_images([section.start]),
                threads=run.threads,
                memory_gib=section.memory_gib,
                on_plan=print_schedule,
            )
    if is_main() and images.images.shape[1] in (1, 3):
        images.contact_sheet(folder / _SHEET)
    return images


def _image_facts(run: Run, images: ImageSet) -> dict[str, Any]:
    from mixmix.data.labels import label_agreement

    facts: dict[str, Any] = {
        "num_images": len(images),
        "label_agreement": label_agreement(images.soft_labels, images.labels),
        "networks": [model["name"] for model in images.manifest.get("models", ())],
    }
    if run.image_section is None:
        return facts
    folder = run.out / run.image_section.folder
    if (folder / _SHEET).exists():
        facts["contact_sheet"] = str(folder / _SHEET)
    return {"out": str(folder), **facts}


def _compress(
    run: Run,
    model: Model,
    methods: Sequence[Method],
    images: ImageSet | None,
    outcome: Outcome,
) -> Artifact | None:
    """Compress a model, export it, and estimate the accuracy loss."""
    from mixmix import Compressed, compress, estimate_accuracy, export, sparsity_of
    from mixmix.export.verify import MIN_PROBE_IMAGES

    compressed, held_out, probe, artifact = Compressed(model.module, model.spec), None, None, None
    facts: dict[str, Any] = {"model": compressed.spec.name, "teacher": model.spec.name}
    if methods:
        # The outputs of fewer images are too noisy to verify the file with.
        if images is not None and len(images) >= MIN_PROBE_IMAGES:
            probe = images.images[:_PROBE_IMAGES]
        if images is not None and (number := _num_held_out(run, model, images)):
            images, held_out = images.split(len(images) - number)
        if run.search is not None:
            assert images is not None and run.export is not None
            found = _search(run, model, methods, images, held_out)
            compressed, artifact, outcome.searched = (
                found.compressed,
                found.artifact,
                found.sensitivity,
            )
            facts["setting"], facts["limits"] = found.chosen.setting, run.search.to_dict()
            facts["search"] = [step.to_dict() for step in found.path]
        else:
            compressed = compress(model, images, methods, seed=run.seed)
        facts["model"] = compressed.spec.name
        facts.setdefault("setting", " + ".join(method.setting for method in methods))
        facts["sparsity"] = sparsity_of(compressed.module).total
    outcome.compressed, outcome.facts["export"] = compressed, facts
    if run.export is not None:
        chosen = run.export
        if artifact is None:
            artifact = export(compressed, run.out / chosen.file, probe=probe, **_writing(run))
        channels, *size = compressed.spec.input_shape
        is_last = chosen.with_preprocessing and chosen.layout == "NHWC"
        facts["input"] = {
            "shape": [1, *size, channels] if is_last else [1, channels, *size],
            "dtype": "uint8" if chosen.with_preprocessing else "float32",
        }
        facts["out"] = str(artifact.path)
        facts["size_bytes"] = artifact.size_bytes
        facts["agreement_with_pytorch"] = artifact.agreement
        if run.export.sensitivity is not None and outcome.sensitivity is not None:
            outcome.sensitivity[0].save(run.export.sensitivity)
        facts |= measure_costs(model, compressed, artifact)
    facts["estimate"] = None
    if held_out is not None:
        small = _executable(artifact, compressed)
        facts["estimate"] = estimate_accuracy(small, model, held_out).to_dict()
    facts["layers"] = [record.to_dict() for record in compressed.records]
    return artifact


def _writing(run: Run) -> dict[str, Any]:
    """How the file is written: arguments of ``export``."""
    chosen = run.export
    assert chosen is not None
    fastest = run.search is not None and run.search.aim == "speed"
    return {
        "optimize_for": "speed" if fastest else chosen.optimize_for,
        "with_preprocessing": chosen.layout if chosen.with_preprocessing else False,
        "with_softmax": chosen.with_softmax,
    }


def _search(
    run: Run,
    model: Model,
    methods: Sequence[Method],
    images: ImageSet,
    held_out: ImageSet | None,
) -> SearchResult:
    """The network within the limits of the run, its file, and what was tried."""
    from mixmix import Quantize
    from mixmix.search import Limits, search

    assert run.search is not None and run.export is not None
    limits, (base,) = Limits(**run.search.to_dict()), methods
    assert isinstance(base, Quantize)
    out = run.out / run.export.file
    return search(
        model, images, held_out, limits, out, base=base, writing=_writing(run), seed=run.seed
    )


def _sweep(run: Run, model: Model, images: ImageSet | None) -> dict[str, Any]:
    """Loss, size and latency of each setting."""
    from mixmix.search import sweep

    section, held_out, data = run.sweep, None, None
    assert section is not None
    if images is None:
        raise InputError("no images to quantize with; add [synthesis] or [images]")
    if section.data is not None:
        data = labeled_images(section.data, lambda: model.spec)
    elif number := _num_held_out(run, model, images):
        images, held_out = images.split(len(images) - number)
    rows = sweep(model, images, held_out, section.settings, run.out, data=data, seed=run.seed)
    return {
        "model": model.spec.name,
        "measured": data is not None,
        "rows": [row.to_dict() for row in rows],
    }


def _num_held_out(run: Run, model: Model, images: ImageSet) -> int:
    """Number of images for the estimate; none for networks without classes."""
    asked = None if run.images is None else run.images.held_out
    if asked is None:
        has_labels = images.soft_labels.shape[1] == model.spec.num_classes > 0
        number = _HELD_OUT if len(images) >= 2 * _HELD_OUT else len(images) // 4
        return number if has_labels else 0
    if not 0 <= asked < len(images):
        raise InputError(
            f"held_out must be from 1 to {len(images) - 1} of {len(images)} images, got {asked}"
        )
    return asked


def _executable(artifact: Artifact | None, compressed: Compressed | None) -> Any:
    """The exported file, or the model if the file holds weights alone or there is none."""
    is_graph = artifact is not None and artifact.format != "sparse"
    return artifact if is_graph else compressed


def _explain(model: Any, reference: Any, images: Any, fields: Any) -> dict[str, Any]:
    """Errors by layer, in plain JSON types; of noise if there are no images."""
    from mixmix.evaluate.layer_errors import layer_errors
    from mixmix.evaluate.predictor import Predictor
    from mixmix.export.verify import probe_images
    from mixmix.runtime.progress import showing

    few = probe_images(Predictor(reference, fields).spec) if images is None else images.images
    with showing("comparing layers") as advance:
        found = layer_errors(model, reference, few[:32], spec=fields, on_progress=advance)
    return found.to_dict()


def _evaluate(run: Run, model: Any, device: str) -> dict[str, Any]:
    from mixmix import evaluate, load
    from mixmix.evaluate.predictor import Predictor, is_file, shared_spec

    section, given = run.evaluation, spec_fields(run.spec)
    assert section is not None
    named = [each for each in (section.model or model, section.reference) if each is not None]
    fields: Any = shared_spec(named, given)

    def loaded(reference: str) -> Any:
        # Files are evaluated as they are.
        return Path(reference) if is_file(reference) else load(reference, device=device, **fields)

    if section.model is not None:
        model = loaded(section.model)
    if model is None:
        raise InputError("nothing to evaluate; add [model], or a model in [evaluation]")
    reference = None if section.reference is None else loaded(section.reference)
    data = labeled_images(section.data, lambda: Predictor(model, fields, device).spec)
    result = evaluate(model, data, reference=reference, spec=fields, device=device)
    facts = ({"model": section.model} if section.model else {}) | result.to_dict()
    if section.explain:
        if reference is None:
            raise InputError("--explain compares layers with the original; add --reference")
        facts["layer_errors"] = _explain(model, reference, None, fields)
    return facts
