"""``mixmix distill``: from options to a student, and from the student to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mixmix.cli.common import (
    DeviceOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    ThreadsOption,
    load_images,
    prepare,
    progress_bar,
)
from mixmix.cli.compressing import format_of, option, report_file
from mixmix.errors import InputError

__all__ = ["distill"]

_IMAGES, _TRAINING = "Images", "Training"
_FORMATS = {".onnx": "onnx", ".pt2": "pt2e", ".safetensors": "sparse"}


def distill(
    model: ModelArgument,
    student: Annotated[
        str,
        typer.Option(
            help="A model as --model, or a spec of one; its architecture gets fresh weights.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .onnx, .pt2 or .safetensors.")],
    zoo: Annotated[
        list[str] | None,
        option(
            "A network to go on making images from; repeat. Without any, --data is all there is.",
            panel=_IMAGES,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        option("Folder of images to begin with; repeat to join.", panel=_IMAGES),
    ] = None,
    every_steps: Annotated[
        int | None,
        option("Steps from one round of new images to the next (default: 25).", panel=_IMAGES),
    ] = None,
    adversarial_weight: Annotated[
        float | None,
        option(
            "How much images are made for what the student gets wrong (default: 0).", panel=_IMAGES
        ),
    ] = None,
    steps: Annotated[
        int | None, option("Steps of training (default: the method's).", panel=_TRAINING, min=1)
    ] = None,
    batch_size: Annotated[
        int | None, option("Images of a step (default: the method's).", panel=_TRAINING, min=1)
    ] = None,
    learning_rate: Annotated[
        float | None, option("The highest one (default: the method's).", panel=_TRAINING)
    ] = None,
    feature_weight: Annotated[
        float | None,
        option(
            "Of what both networks give at each resolution (default: the method's); 0: none.",
            panel=_TRAINING,
        ),
    ] = None,
    ensemble: Annotated[
        bool, option("Learn from all networks of --zoo together.", panel=_TRAINING)
    ] = False,
    checkpoints: Annotated[
        Path | None, option("Folder from which an interrupted run goes on.", panel=_TRAINING)
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a student and write it; the command line says what each option is."""
    from dataclasses import replace

    from mixmix.compress.compress import compress
    from mixmix.compress.distill.distill import Distill
    from mixmix.compress.train.generated_images import GeneratedImages
    from mixmix.export import export
    from mixmix.models import Zoo, load
    from mixmix.synthesis.amortized_settings import AmortizedSettings
    from mixmix.synthesis.terms import Adversarial

    prepare(device, threads)
    file_format = format_of(out, _FORMATS)
    if zoo is None and data is None:
        raise InputError("there are no images to learn from; give --zoo, --data, or both")
    if zoo is None and (ensemble or every_steps is not None or adversarial_weight is not None):
        raise InputError(
            "--ensemble, --every-steps and --adversarial-weight are for the networks of --zoo; "
            "give some"
        )
    networks = None if zoo is None else Zoo.load(zoo, device=device)
    fresh = None
    if networks is not None:
        synthesis = AmortizedSettings()
        if adversarial_weight is not None:
            synthesis = synthesis.with_term(Adversarial(weight=adversarial_weight))
        fresh = GeneratedImages(networks, synthesis)
        if every_steps is not None:
            fresh = replace(fresh, every_steps=every_steps)
    given: dict[str, Any] = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "feature_weight": feature_weight,
    }
    method = Distill(
        student,
        fresh=fresh,
        ensemble=networks if ensemble else None,
        checkpoints=checkpoints,
    )
    changes = {name: value for name, value in given.items() if value is not None}
    method = replace(method, training=replace(method.training, **changes))
    images = None if data is None else load_images(*data)
    teacher = load(model, device=device)
    with progress_bar("distilling") as advance:
        compressed = compress(teacher, images, method, seed=seed, on_progress=advance)
    artifact = export(compressed, out, format=file_format)
    content = {"setting": method.setting, "teacher": teacher.spec.name}
    title = f"wrote {out} ({artifact.size_bytes:,} bytes)"
    report_file(content, compressed, artifact, None, title=title, as_json=as_json)
