"""``mixmix run``, ``mixmix synthesize`` and ``mixmix generate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mixmix.cli.options import Given, command
from mixmix.cli.results import do, do_run
from mixmix.cli.run_file import Run

__all__ = ["generate", "run", "synthesize"]


@command(
    "run",
    """
    source! file: TOML file of a run.
    out: Folder for the results (default: as in FILE).
    json
    """,
)
def run(given: Given) -> None:
    """Execute a run that a TOML file describes: synthesis, compression, export, evaluation.

    Other commands write such a file next to their results.

    Example: mixmix run results/run.toml --out again
    """
    content = Run.read(Path(given["source"]))
    if given["out"] is not None:
        content = replace(content, out=Path(given["out"]))
    do_run(content, as_json=given["json"], by_section=True)


@command(
    "synthesize",
    """
    zoo.models! --zoo -z
    zoo.weights --weight
    out!
    settings.num_images -n
    settings.iterations
    settings.batch_size
    settings.members_per_step
    settings.scales --scale
    synthesis.recipe
    synthesis.start
    synthesis.memory_gib
    COMMON
    NETWORK
    """,
)
def synthesize(given: Given) -> None:
    """Synthesize labeled images from pretrained networks.

    To resume an interrupted run, repeat the command. Processes started by torchrun split the work.

    Example: mixmix synthesize --zoo bundled:vgg --zoo bundled:vovnet --out images
    """
    settings = given.pop("settings", {})
    if settings.get("scales", [1])[-1] < 1:
        settings["scales"].append(1.0)
    do(given | {"synthesis": {"folder": ".", **settings, **given.get("synthesis", {})}})


@command(
    "generate",
    """
    zoo.models! --zoo -z
    zoo.weights --weight
    out!
    generation.num_images -n
    generation.warmup_rounds
    generator.steps
    generator.batch_size
    COMMON
    NETWORK
    """,
)
def generate(given: Given) -> None:
    """Generate thousands of images, with a few optimizer steps for each batch.

    Use them for training; synthesize makes fewer but better images. To resume an interrupted run,
    repeat the command.

    Example: mixmix generate --zoo bundled:vgg --zoo bundled:vovnet -n 10000 --out many
    """
    settings = given.pop("generator", {})
    do(given | {"generation": {"folder": ".", **settings, **given.get("generation", {})}})
