"""``mixmix distill``: a student in a file."""

from __future__ import annotations

from typing import Any

from mixmix.cli.command import (
    JSON,
    MODEL,
    PROCESS,
    Command,
    do,
    file_out,
    written_as,
)
from mixmix.cli.options import Fields, Given, Option
from mixmix.cli.output import report_file
from mixmix.errors import InputError

__all__ = ["DISTILL"]

_DISTILL = "mixmix.compress.distill.distill:Distill"
_IMAGES, _TRAINING = "Images", "Training"


def _distill(given: Given) -> None:
    images, zoo, fresh = given.fields("images"), given["zoo"], given.fields("fresh")
    if not zoo and not images:
        raise InputError("there are no images to learn from; give --zoo, --data, or both")
    if not zoo and (given["ensemble"] or fresh or given["adversarial_weight"] is not None):
        raise InputError(
            "--ensemble, --every-steps and --adversarial-weight are for the networks of --zoo; "
            "give some"
        )
    method: dict[str, Any] = {"method": "distill", "student": given["student"]}
    method |= given.fields("distill")
    if given["adversarial_weight"] is not None:
        fresh["synthesis"] = {"terms": _terms(given["adversarial_weight"])}
    if zoo:
        method["fresh"] = {"more_images": "generated", "zoo": zoo, **fresh}
    if given["ensemble"]:
        method["ensemble"] = zoo
    outcome = do(
        given,
        {
            "model": given.fields("model"),
            **({"images": images} if images else {}),
            "methods": [method],
            **written_as(given["out"]),
        },
    )
    assert outcome.model is not None
    used: Any = outcome.methods[0]
    extra = {
        "setting": used.setting,
        "teacher": outcome.model.spec.name,
    }
    report_file(extra, outcome, given["json"])


def _terms(adversarial_weight: float) -> list[dict[str, Any]]:
    """The terms that a generator is trained with by default, and the adversarial one."""
    from mixmix import AmortizedSettings
    from mixmix.synthesis.terms import Adversarial

    settings = AmortizedSettings().with_term(Adversarial(weight=adversarial_weight))
    terms: list[dict[str, Any]] = settings.to_dict()["terms"]
    return terms


DISTILL = Command(
    "distill",
    help="Train another network, from scratch and without data, to predict what a network does.",
    example="mixmix distill -m bundled:resnet --student bundled:mobilenetv2 --zoo bundled:resnet "
    "--zoo bundled:vgg --out student.onnx --checkpoints run",
    options=(
        MODEL,
        Option(
            "student", str, "A model as in --model, whose architecture gets fresh weights.", ...
        ),
        file_out("File to write: .onnx, .pt2 or .safetensors."),
        Option(
            "zoo",
            list[str] | None,
            "A network to synthesize images from during training; "
            "repeat. Without any, only the images of --data are used.",
            panel=_IMAGES,
        ),
        Fields("images", "mixmix.cli.run_file:ImagesSection", "folders --data", panel=_IMAGES),
        Fields(
            "fresh",
            "mixmix.compress.train.generated_images:GeneratedImages",
            "every_steps",
            panel=_IMAGES,
        ),
        Option(
            "adversarial_weight",
            float | None,
            "Weight of the adversarial loss: images on which student and zoo disagree (default: "
            "no such loss).",
            panel=_IMAGES,
        ),
        Fields(
            "distill",
            _DISTILL,
            "training.steps, training.batch_size, training.learning_rate, training.feature_weight",
            panel=_TRAINING,
        ),
        Option(
            "ensemble",
            bool,
            "Learn the mean prediction of the networks of --zoo.",
            False,
            ("--ensemble",),
            panel=_TRAINING,
        ),
        Fields("distill", _DISTILL, "checkpoints", panel=_TRAINING),
        PROCESS,
        JSON,
    ),
    call=_distill,
)
