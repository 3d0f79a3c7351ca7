"""``mixmix synthesize`` and ``mixmix generate``: folders of images."""

from __future__ import annotations

from typing import Any

from mixmix.cli.command import JSON, PROCESS, ZOO, Command, do
from mixmix.cli.options import Fields, Given
from mixmix.cli.output import images_content, report

__all__ = ["GENERATE", "SYNTHESIZE"]

_OUT = Fields("run", "mixmix.cli.run_file:Run", "out!")


def _synthesize(given: Given) -> None:
    settings = given.fields("settings")
    scales = settings.get("scales")
    if scales and scales[-1] < 1:
        settings["scales"] = [*scales, 1.0]
    section = {**given.fields("synthesis"), "folder": ".", **settings}
    _make(given, "synthesis", section)


def _generate(given: Given) -> None:
    section = {**given.fields("generation"), "folder": ".", **given.fields("settings")}
    _make(given, "generation", section)


def _make(given: Given, section: str, content: dict[str, Any]) -> None:
    outcome = do(given, {"zoo": given.fields("zoo"), section: content})
    if outcome.is_main:
        facts = {"out": given.fields("run")["out"], **images_content(outcome)}
        report(facts, [facts], given["json"])


SYNTHESIZE = Command(
    "synthesize",
    help="Synthesize labeled images from pretrained networks.\n\n"
    "An interrupted run continues when the command is repeated. Processes started by torchrun "
    "share the work.",
    example="mixmix synthesize --zoo bundled:vgg --zoo bundled:vovnet --out images",
    options=(
        ZOO,
        _OUT,
        Fields(
            "settings",
            "mixmix.synthesis.settings:SynthesisSettings",
            "num_images -n, iterations, batch_size, members_per_step, scales --scale",
        ),
        Fields(
            "synthesis",
            "mixmix.cli.run_file:SynthesisSection",
            "recipe, start, memory_gib",
        ),
        PROCESS,
        JSON,
    ),
    call=_synthesize,
)

GENERATE = Command(
    "generate",
    help="Generate thousands of images, with a few optimizer steps for each batch.\n\n"
    "They suit training; synthesize makes fewer and better ones. An interrupted run continues when "
    "the command is repeated.",
    example="mixmix generate --zoo bundled:vgg --zoo bundled:vovnet -n 10000 --out many",
    options=(
        ZOO,
        _OUT,
        Fields(
            "generation",
            "mixmix.cli.run_file:GenerationSection",
            "num_images -n, warmup_rounds",
        ),
        Fields(
            "settings",
            "mixmix.synthesis.amortized_settings:AmortizedSettings",
            "steps, batch_size",
        ),
        PROCESS,
        JSON,
    ),
    call=_generate,
)
