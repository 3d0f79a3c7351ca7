"""All settings of compression are written as plain JSON types and read back, new ones too."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from tiny_networks import TinyStudent, tiny_teacher

from mixmix import (
    AmortizedSettings,
    Augmentation,
    Compressed,
    Distill,
    FineTune,
    GeneratedImages,
    ImageSet,
    MixedPrecision,
    ModelSpec,
    Prune,
    PruneBlocks,
    PruneChannels,
    Quantize,
    QuantizeAware,
    ReconstructFeatures,
    ReconstructionSettings,
    ReestimateBatchNorm,
    TrainingSettings,
    Zoo,
    compress,
)
from mixmix._settings import Settings
from mixmix.compress.method import Method
from mixmix.compress.recover.recover import Recovery
from mixmix.errors import InputError

ZOO = Zoo.load(["bundled:resnet", "bundled:vgg"])
WEIGHTED = Zoo(list(ZOO), weights=(1.0, 2.5))
TRAINING = TrainingSettings(
    steps=7, augmentation=Augmentation(mixing=("cutmix",), box_area=(0.2, 0.3))
)
STUDENT = ModelSpec(
    "s", "bundled:vgg", (3, 32, 32), (0.5,) * 3, (0.5,) * 3, 10, classes=tuple("abcdefghij")
)
GENERATED = GeneratedImages(WEIGHTED, AmortizedSettings(num_latents=512), rounds=2)

# Beside the defaults of each class: fields that hold other settings, sequences and mappings.
EXAMPLES: list[Any] = [
    TRAINING,
    Quantize("w4a4", layer_bits={"conv": "w3a8"}, reconstruction=ReconstructionSettings(5)),
    QuantizeAware(Quantize("W2A4"), TRAINING, GENERATED),
    MixedPrecision(max_size_ratio=0.1, choices=("W2A8",), quantize=Quantize(views=3)),
    Prune(0.7, skip=("a", "b"), between=ReestimateBatchNorm(), recovery=()),
    Prune(pattern="2:4", recovery=[ReconstructFeatures(iterations=3), FineTune(TRAINING)]),
    PruneChannels(max_macs=0.5, recovery=FineTune(TRAINING, GENERATED)),
    PruneBlocks(max_latency=0.5, recovery=()),
    Distill("bundled:vgg", TRAINING, GENERATED),
    Distill(Path("student.toml")),
    Distill(STUDENT),
    GENERATED,
]


def settings_classes(of: type = Settings) -> list[type]:
    """All that can be made, once all of ``mixmix.compress`` is imported."""
    folder = importlib.import_module("mixmix.compress").__path__
    for module in pkgutil.walk_packages(folder, "mixmix.compress."):
        importlib.import_module(module.name)
    found = {c for child in of.__subclasses__() for c in (child, *settings_classes(child))}
    return sorted(
        (
            c
            for c in found
            if c.__module__.startswith("mixmix.compress.") and not inspect.isabstract(c)
        ),
        key=lambda c: c.__name__,
    )


def examples(cls: type) -> list[Any]:
    required = any(
        f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        for f in dataclasses.fields(cls)
    )
    given = [each for each in EXAMPLES if type(each) is cls]
    try:
        return given if required else [cls(), *given]
    except InputError:  # one of several has to be given
        return given


@pytest.mark.parametrize("cls", settings_classes())
def test_settings_are_read_back(cls: Any) -> None:
    assert examples(cls), f"{cls.__name__} cannot be made without arguments; add it to EXAMPLES"
    for settings in examples(cls):
        plain = json.loads(json.dumps(settings.to_dict()))
        assert cls.from_dict(plain) == settings
        for family in (Method, Recovery):
            if isinstance(settings, family):
                assert family.from_dict(plain) == settings
        with pytest.raises(InputError, match=f"{cls.__name__} has no 'unheard_of'"):
            cls.from_dict(plain | {"unheard_of": 1})


@pytest.mark.parametrize("cls", [c for c in settings_classes() if c.family])
def test_kinds_are_told_apart(cls: Any) -> None:
    assert cls.__module__ in cls.modules, "or its kind is unknown until it is imported"
    assert cls.kind and cls.kinds()[cls.kind] is cls
    assert all(each.to_dict()[cls.family] == cls.kind for each in examples(cls))


@pytest.mark.parametrize("method", settings_classes(Method))
def test_methods_have_a_short_name(method: Any) -> None:
    for each in examples(method):
        if each not in (Distill("student.toml"),):  # there is no such file
            assert 0 < len(each.setting) < 60


def test_folders_of_checkpoints_are_read_but_not_written(tmp_path: Path) -> None:
    method = Prune(checkpoints=tmp_path)
    assert method == Prune() and "checkpoints" not in method.to_dict()
    assert Prune.from_dict({"checkpoints": str(tmp_path)}).checkpoints == str(tmp_path)


def test_modules_of_the_caller_are_named_but_not_read_back() -> None:
    plain = Distill(TinyStudent()).to_dict()
    assert plain["student"] == "module:TinyStudent"
    with pytest.raises(InputError, match="was a module of class TinyStudent"):
        Distill.from_dict(plain)
    zoo = Zoo([tiny_teacher("plain")])
    assert zoo == Zoo([tiny_teacher("plain")]) != Zoo([tiny_teacher("residual")])
    assert zoo.to_plain()[0]["name"] == "plain"
    with pytest.raises(InputError, match="plain was a module built by the caller"):
        Zoo.from_plain(json.loads(json.dumps(zoo.to_plain())))
    with pytest.raises(InputError, match="a zoo must be a list of networks, got 3"):
        Zoo.from_plain(3)


def test_references_stand_for_networks_of_a_zoo() -> None:
    assert ZOO.to_plain() == ["bundled:resnet", "bundled:vgg"]
    assert WEIGHTED.to_plain() == {"models": ZOO.to_plain(), "weights": [1.0, 2.5]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"method": "shrink"}, "unknown method 'shrink'; known: distill, mixed-precision, prune"),
        ({"method": ["quantize"]}, "unknown method ..quantize"),
        ({"method": "prune", "recovery": [{"recovery": "rest"}]}, "unknown recovery 'rest'"),
        ({"method": "prune", "recovery": {"recovery": "rest"}}, "unknown recovery 'rest'"),
        ({"method": "quantize", "reconstruction": {"batch_size": 0}}, "batch_size must be a whole"),
    ],
)
def test_what_is_wrong_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Method.from_dict(content)


class Copying:
    """Has what ``compress`` asks for, and is no ``Method``."""

    needs_images = False

    def apply(
        self, model: Compressed, data: ImageSet, *, seed: int, on_progress: Any
    ) -> Compressed:
        on_progress("copying", 1.0)
        return model.with_method(self, {"images": len(data)})  # type: ignore[arg-type]


def test_any_object_with_apply_is_a_method() -> None:
    told = []
    model = compress(
        tiny_teacher("plain"), None, Copying(), seed=0, on_progress=lambda *of: told.append(of)
    )
    assert model.settings == ({"method": "Copying"},) and told == [("copying", 1.0)]
    assert model.applied[0].results == {"images": 0}
