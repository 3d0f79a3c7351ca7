from __future__ import annotations

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import Model, ModelSpec, SynthesisSettings, Zoo, synthesize
from mixmix.errors import InputError
from mixmix.models.member import label_map
from mixmix.synthesis.objective import losses_of

CLASSES = ("cat", "Fire_Truck", "ship", "frog")
ORDER = (2, 0, 3, 1)


def spec(name: str = "plain", **changes: object) -> ModelSpec:
    return tiny_spec(name, **changes)


class Reordered(nn.Module):
    """A network whose classes are in another order, and which may know others besides."""

    def __init__(self, model: nn.Module, order: tuple[int, ...], extra: int = 0) -> None:
        super().__init__()
        self.model, self.order, self.extra = model, list(order), extra

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)[:, self.order]
        return torch.cat([logits, logits.new_full((len(x), self.extra), -9.0)], dim=1)


class TestLabelMap:
    def test_names_come_before_indices(self) -> None:
        other = spec(classes=["ship", "cat", "frog", "fire truck"])
        assert label_map(spec(classes=CLASSES), other) == ((1, 3, 0, 2), "")

    def test_a_network_that_knows_more(self) -> None:
        other = spec(num_classes=6, classes=["dog", *CLASSES, "sun"], label_set="more")
        assert label_map(spec(classes=CLASSES), other) == ((1, 2, 3, 4), "")

    def test_the_same_index_where_names_are_not_known(self) -> None:
        same = tuple(range(NUM_CLASSES))
        assert label_map(spec(classes=CLASSES), spec()) == (same, "")
        assert label_map(spec(), spec(label_set="")) == (same, "")

    def test_one_label_set_spelled_in_two_ways(self) -> None:
        other = spec(classes=["tabby", "fire engine", "boat", "tree frog"])
        assert label_map(spec(classes=CLASSES), other) == ((0, 1, 2, 3), "")

    def test_names_that_stand_for_two_classes_are_not_used(self) -> None:
        twice = ("crane", "Crane", "ship", "frog")
        assert label_map(spec(classes=twice), spec(classes=CLASSES)) == ((0, 1, 2, 3), "")

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"label_set": "other"}, "its label set is other, that of plain is tiny"),
            ({"num_classes": 7, "label_set": ""}, "it has 7 classes, plain has 4"),
            (
                {"label_set": "", "classes": ["cat", "dog", "ship", "sun"]},
                "it lacks Fire_Truck, frog",
            ),
        ],
    )
    def test_other_classes(self, changes: dict[str, object], why: str) -> None:
        assert label_map(spec(classes=CLASSES), spec(**changes)) == (None, why)

    def test_one_label_set_with_two_numbers_of_classes(self) -> None:
        message = "plain and residual have the label set tiny, but 4 and 7"
        with pytest.raises(InputError, match=message):
            label_map(spec(), spec("residual", num_classes=7))

    @pytest.mark.parametrize("given", [(2, 0, 5, 1), ("ship", 0, "sun", "cat")])
    def test_what_the_spec_says_comes_first(self, given: tuple[int | str, ...]) -> None:
        names = ["cat", "ship", "dog", "frog", "sun", "tree"]
        other = spec(num_classes=6, label_set="other", classes=names, label_map=given)
        expected = tuple(names.index(each) if isinstance(each, str) else each for each in given)
        assert label_map(spec(classes=CLASSES), other) == (expected, "")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ((0, 1), "label_map has 2 entries, expected one for each of the 4 classes of plain"),
            ((0, 1, 2, 4), "label_map names 4, expected .* indices, 0 to 3"),
            ((0, 1, "sun", 3), "label_map names 'sun'"),
        ],
    )
    def test_a_map_that_does_not_fit(self, given: tuple[int | str, ...], message: str) -> None:
        with pytest.raises(InputError, match=message):
            label_map(spec(classes=CLASSES), spec(classes=CLASSES, label_map=given))


def reordered_zoo(extra: int = 0) -> tuple[Zoo, Zoo]:
    """A network beside one with other places for its classes; and both with the same."""
    first = (tiny_network("plain"), spec(classes=CLASSES))
    names = [CLASSES[index] for index in ORDER] + [f"other {index}" for index in range(extra)]
    changes = {"classes": names, "num_classes": len(names), "label_set": "more" if extra else ""}
    second = Reordered(tiny_network("residual"), ORDER, extra)
    mixed = Zoo.load([first, (second, spec("residual", **changes))])
    return mixed, Zoo.load([first, (tiny_network("residual"), spec("residual", classes=CLASSES))])


@pytest.mark.parametrize("extra", [0, 2])
def test_labels_mean_the_same_in_every_member(extra: int) -> None:
    mixed, plain = reordered_zoo(extra)
    images = torch.rand(8, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % NUM_CLASSES
    settings = SynthesisSettings(members_per_step=None)

    def losses(zoo: Zoo) -> dict[str, Tensor]:
        draws = torch.Generator().manual_seed(1)
        return losses_of(zoo, images, labels, settings, generator=draws, mixing=True)

    found, expected = losses(mixed), losses(plain)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    if not extra:
        torch.testing.assert_close(mixed.soft_labels(images), plain.soft_labels(images))
    assert mixed.soft_labels(images).shape == (8, NUM_CLASSES)
    assert mixed.num_classes == NUM_CLASSES
    assert mixed.classes == CLASSES


def test_other_label_sets_take_part_by_their_statistics_alone() -> None:
    first = (tiny_network("plain"), spec())
    other = (tiny_network("residual"), spec("residual", label_set="other"))
    zoo = Zoo.load([first, other])
    assert [member.role for member in zoo.members] == [
        "labels and BatchNorm statistics",
        "only BatchNorm statistics (its label set is other, that of plain is tiny)",
    ]
    images = torch.rand(4, *INPUT_SHAPE)
    torch.testing.assert_close(zoo.soft_labels(images), zoo[0](images).softmax(1))
    data = synthesize(zoo, SynthesisSettings(num_images=4, batch_size=4, iterations=2), seed=0)
    assert data.manifest["members"][1]["role"] == zoo.members[1].role


def test_a_network_that_has_nothing_to_say_is_refused() -> None:
    first = (tiny_network("plain"), spec())
    other = (tiny_network("no-batch-norm"), spec("no-batch-norm", label_set="other"))
    with pytest.raises(InputError, match="cannot be in a zoo with plain: it has no Batch"):
        Zoo.load([first, other])


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, -1.0)])
def test_weights_that_do_not_fit(weights: tuple[float, ...]) -> None:
    teachers = [Model(tiny_network(name), spec(name)) for name in ("plain", "residual")]
    with pytest.raises(InputError, match="one finite number > 0 for each of the 2 networks"):
        Zoo(teachers, weights=weights)


def test_weights_are_chances_of_being_drawn() -> None:
    teachers = [Model(tiny_network(name), spec(name)) for name in ("plain", "residual")]
    zoo = Zoo(teachers, weights=(3, 1))
    images, labels = torch.rand(4, *INPUT_SHAPE), torch.arange(4)
    alone = [
        losses_of(
            Zoo([each]),
            images,
            labels,
            SynthesisSettings(jitter=0, flip=False),
            generator=torch.Generator(),
            mixing=False,
        )["ce"]
        for each in teachers
    ]
    settings = SynthesisSettings(jitter=0, flip=False)
    draws = torch.Generator().manual_seed(0)
    seen = [
        losses_of(zoo, images, labels, settings, generator=draws, mixing=False)["ce"]
        for _ in range(40)
    ]
    first = sum(bool(torch.isclose(each, alone[0])) for each in seen)
    assert 24 <= first <= 36
    assert first + sum(bool(torch.isclose(each, alone[1])) for each in seen) == 40
    every = SynthesisSettings(jitter=0, flip=False, members_per_step=None)
    together = losses_of(zoo, images, labels, every, generator=draws, mixing=False)["ce"]
    torch.testing.assert_close(together, (3 * alone[0] + alone[1]) / 4)
