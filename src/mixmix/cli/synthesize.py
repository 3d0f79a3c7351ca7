"""``mixmix synthesize`` and ``mixmix generate``: from options to a folder of images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixmix.cli.common import (
    MODELS,
    DeviceOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    load_images,
    prepare,
    progress_bar,
    report,
)
from mixmix.errors import InputError

if TYPE_CHECKING:
    from mixmix.data.image_set import ImageSet
    from mixmix.models import Zoo
    from mixmix.synthesis.schedule import Schedule

__all__ = ["generate", "synthesize"]

ZooOption = Annotated[
    list[str],
    typer.Option("--zoo", "-z", help=f"A network to invert; repeat for a mixture: {MODELS}."),
]
OutOption = Annotated[Path, typer.Option(help="Folder for the images.")]
WeightsOption = Annotated[
    list[float] | None,
    typer.Option("--weight", help="Of a network, in the order of --zoo (default: 1 for all)."),
]


def synthesize(
    zoo: ZooOption,
    out: OutOption,
    num_images: Annotated[
        int | None, typer.Option("--num-images", "-n", help="How many images (default: 256).")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="Folder of images to go on from, to fit them to another network."),
    ] = None,
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="mixmix, feature-mixing, data-mixing, deepinversion, zeroq, psaq-vit, noise, or "
            "refine (default: mixmix; with --start: refine).",
        ),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Optimizer steps per batch (default: the recipe's).")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images optimized together (default: the recipe's).")
    ] = None,
    members_per_step: Annotated[
        int | None, typer.Option(help="Networks drawn at each step (default: the recipe's).")
    ] = None,
    weights: WeightsOption = None,
    scales: Annotated[
        list[float] | None,
        typer.Option(
            "--scale",
            help="Share of the full size to begin with, such as 0.5; repeat for more steps.",
        ),
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(help="Memory to stay within, GiB (default: half of all).")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Synthesize images; the command line says what each option is."""
    from mixmix.runtime import distributed
    from mixmix.synthesis.recipes import recipe
    from mixmix.synthesis.synthesize import synthesize as run_synthesis

    device = distributed.local_device(device)
    prepare(device, threads, together=True)
    given = {
        "num_images": num_images,
        "iterations": iterations,
        "batch_size": batch_size,
        "members_per_step": members_per_step,
        "scales": None if not scales else (*scales, 1.0) if scales[-1] < 1 else tuple(scales),
    }
    if start is not None and num_images is not None:
        raise InputError("--start makes as many images as it holds; leave out --num-images")
    settings = recipe(
        recipe_name or ("mixmix" if start is None else "refine"),
        **{k: v for k, v in given.items() if v is not None},
    )
    networks = _loaded(zoo, weights, device)
    beginning = None if start is None else load_images(start)
    with (
        distributed.process_group(device),
        progress_bar("synthesizing", shown=distributed.is_main()) as advance,
    ):
        data = run_synthesis(
            networks,
            settings,
            seed=seed,
            out=out,
            start=beginning,
            threads=threads,
            memory_gib=memory_gib,
            on_plan=_tell_plan,
            on_progress=lambda done, total: advance("synthesizing", done / max(total, 1)),
        )
    if not distributed.is_main():
        return
    _report(data, out, as_json)


def generate(
    zoo: ZooOption,
    out: OutOption,
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="How many images.")] = 4096,
    warmup_rounds: Annotated[
        int, typer.Option(help="Rounds before any image is kept, while the generator learns.")
    ] = 20,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps per batch (default: 10).")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images optimized together (default: 128).")
    ] = None,
    weights: WeightsOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make many images; the command line says what each option is."""
    from dataclasses import replace

    from mixmix.synthesis.amortized_settings import AmortizedSettings
    from mixmix.synthesis.generate import generate as run_generation

    prepare(device, threads)
    settings = AmortizedSettings()
    given: dict[str, Any] = {"iterations": steps, "batch_size": batch_size}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = replace(settings, objective=replace(settings.objective, **changes))
    networks = _loaded(zoo, weights, device)
    with progress_bar("generating") as advance:
        data = run_generation(
            networks,
            settings,
            num_images=num_images,
            seed=seed,
            warmup_rounds=warmup_rounds,
            out=out,
            on_progress=lambda done, total: advance("generating", done / total),
        )
    _report(data, out, as_json)


def _loaded(names: list[str], weights: list[float] | None, device: str) -> Zoo:
    from mixmix.models import Zoo

    zoo = Zoo.load(names, weights=weights or None, device=device)
    for member in zoo.members:
        if member.why:
            print(f"note: {member.teacher.spec.name} takes part by {member.role}", file=sys.stderr)
    return zoo


def _report(data: ImageSet, out: Path, as_json: bool) -> None:
    from mixmix.data.image_set import label_agreement

    content: dict[str, Any] = {
        "out": str(out),
        "num_images": len(data),
        "label_agreement": label_agreement(data.soft_labels, data.labels),
    }
    if data.images.shape[1] in (1, 3):
        content["contact_sheet"] = str(data.contact_sheet(out / "contact-sheet.png"))
    report(content, [content], as_json)


def _tell_plan(schedule: Schedule) -> None:
    from mixmix.runtime import distributed

    if not distributed.is_main() or not schedule.peak_bytes:
        return
    parts = "" if schedule.part is None else f", {schedule.part} images passing at a time"
    print(
        f"batches at a time: {schedule.shards_at_once}{parts}; about "
        f"{schedule.peak_bytes / 2**30:.2f} GiB at the peak, beside the networks",
        file=sys.stderr,
    )
