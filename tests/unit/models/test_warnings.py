"""What is probably wrong is said aloud."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec
from torch import nn

from mixmix import ImageSet, Model, ModelSpec, Zoo, evaluate
from mixmix.cli.main import _show_warning
from mixmix.data.images import as_image_set
from mixmix.errors import DataError, InputError, MixmixWarning, warn


@pytest.mark.parametrize("changes", [{"mean": 123.7, "std": 58.4}, {"mean": 0.0, "std": 255.0}])
def test_normalization_for_pixels_up_to_255(changes: dict[str, float]) -> None:
    with pytest.raises(InputError, match="pixels from 0 to 255, expected .* divide both by 255"):
        replace(tiny_spec("plain"), **changes)  # type: ignore[arg-type]
    scaled = {name: value / 255 for name, value in changes.items()}
    assert isinstance(replace(tiny_spec("plain"), **scaled), ModelSpec)  # type: ignore[arg-type]


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]


def test_statistics_of_batch_norm() -> None:
    model = tiny_network("plain")
    for each in norms(model):
        each.reset_running_stats()
    with pytest.warns(MixmixWarning, match="plain: all BatchNorm layers have mean 0"):
        Model(model, tiny_spec("plain"))
    model = tiny_network("plain")
    norms(model)[1].running_var[0] = 0  # type: ignore[index]
    with pytest.warns(MixmixWarning, match="running variances of .* are 0"):
        Model(model, tiny_spec("plain"))
    norms(model)[1].running_var[0] = -1e-3  # type: ignore[index]
    with pytest.raises(InputError, match="as low as -0.001, expected numbers >= 0"):
        Model(model, tiny_spec("plain"))


def test_values_of_image_sets() -> None:
    pixels, labels = torch.zeros(2, *INPUT_SHAPE), torch.tensor([0, 1])
    soft = torch.full((2, 2), 0.5)
    with pytest.raises(InputError, match="soft labels contain NaN"):
        ImageSet(pixels, labels, soft / torch.tensor([1.0, 0.0]) * 0, {})
    with pytest.raises(InputError, match="images contain NaN or infinite"):
        ImageSet(pixels + float("inf"), labels, soft, {})
    with pytest.raises(InputError, match="soft labels are from 0 to 5, expected probabilities"):
        ImageSet(pixels, labels, soft * torch.tensor([0.0, 10.0]), {})
    with pytest.raises(InputError, match="expected images .* and soft labels"):
        ImageSet(pixels, labels, soft[:, 0], {})
    with pytest.raises(InputError, match="expected labels as class indices, got torch.float32"):
        ImageSet(pixels, labels.float(), soft, {})
    with pytest.raises(DataError, match="from 255 to 255; divide them by 255"):
        ImageSet(pixels + 255, labels, soft, {})
    with pytest.raises(InputError, match="labels are from 0 to 2, expected 0 to 1"):
        ImageSet(pixels, torch.tensor([0, 2]), soft, {})


def test_labels_that_are_right_by_chance_alone() -> None:
    model = Model(tiny_network("plain"), tiny_spec("plain"))
    pixels = torch.rand(64, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    predicted = model.logits(pixels).argmax(1)
    wrong = (predicted + 1) % NUM_CLASSES
    with pytest.warns(MixmixWarning, match="only 0 of 64 images are predicted as labeled by plain"):
        as_image_set((pixels, wrong), model)
    one_hot = torch.eye(NUM_CLASSES)
    meant = ImageSet(pixels, wrong, one_hot[wrong], {"label_set": "tiny"})
    with pytest.warns(MixmixWarning, match="no more than by chance"):
        as_image_set(meant, model)
    right = ImageSet(pixels, predicted, one_hot[predicted], {"label_set": "tiny"})
    assert as_image_set(right, model) is right
    with pytest.warns(MixmixWarning, match="only 0 of 64 images are predicted as labeled by plain"):
        evaluate(model, (pixels, wrong))


NAMED = replace(tiny_spec("plain"), classes=("cat", "dog", "cow", "hen"), label_set="")


def other(**changes: object) -> Model:
    spec = replace(tiny_spec("residual"), label_set="", **changes)  # type: ignore[arg-type]
    return Model(tiny_network("residual"), spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_map": (0, 0, 1, 2)}, "label_map names 0 more than once"),
        (
            {"label_map": (1, 0, 2, 3), "classes": NAMED.classes},
            "label_map gives cat, dog other classes than those of the same names",
        ),
        ({"classes": ("cat", "cat", "dog", "cow")}, "several classes are called cat"),
    ],
)
def test_contradictions_of_names(changes: dict[str, object], message: str) -> None:
    named = Model(tiny_network("plain"), NAMED)
    with pytest.warns(MixmixWarning, match=message):
        Zoo([named, other(**changes)])


def test_the_place_of_a_warning_is_the_line_of_the_caller() -> None:
    model = tiny_network("plain")
    norms(model)[0].running_var[0] = 0  # type: ignore[index]
    with pytest.warns(MixmixWarning) as caught:
        Model(model, tiny_spec("plain"))
    assert caught[0].filename == __file__


def test_the_command_line_shows_a_warning_once(capsys: pytest.CaptureFixture[str]) -> None:
    warning = MixmixWarning("shown once,\n in one line\x1b[31m")
    for place in ("/home/me/script.py", "<frozen runpy>", warn.__code__.co_filename):
        _show_warning(warning, MixmixWarning, place, 1)
        _show_warning("of others", UserWarning, place, 1)
    assert capsys.readouterr().err == "warning: shown once, in one line\\x1b[31m\n"
