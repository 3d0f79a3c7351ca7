"""Labels of images are matched to the classes of networks by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES, tiny_network, tiny_spec
from torch.utils.data import DataLoader, Subset, TensorDataset

from mixmix import ImageSet, Model, SynthesisSettings, Zoo, evaluate, load, synthesize
from mixmix.data.images import as_image_set
from mixmix.errors import DataError, InputError, MixmixWarning
from mixmix.evaluate.image_folder import image_folder

NAMES, ORDER = ("cat", "dog", "fox", "owl"), (2, 0, 3, 1)
MOVED = tuple(NAMES[index] for index in ORDER)
OTHERS = ("car", "bus", "van", "tram")


def image_set(names: tuple[str, ...], count: int = 8) -> ImageSet:
    """The label of image i is the class NAMES[i % 4]; soft labels are mostly on it."""
    pixels = torch.rand(count, *INPUT_SHAPE, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([names.index(NAMES[i % len(NAMES)]) for i in range(count)])
    soft = torch.full((count, len(names)), 0.1)
    soft[torch.arange(count), labels] = 1 - 0.1 * (len(names) - 1)
    return ImageSet(pixels, labels, soft, {"classes": list(names)})


def model(names: tuple[str, ...] = NAMES) -> Model:
    return Model(tiny_network("plain"), tiny_spec("plain", classes=names, label_set=""))


def named(data: ImageSet) -> list[str]:
    return [data.classes[label] for label in data.labels]


@pytest.mark.parametrize("names", [NAMES, MOVED, ("sun", *MOVED, "ant")])
class TestByName:
    def test_of_an_image_set(self, names: tuple[str, ...]) -> None:
        data, found = image_set(names), as_image_set(image_set(names), model())
        assert found.labels.tolist() == [0, 1, 2, 3] * 2
        assert found.soft_labels.argmax(1).equal(found.labels)
        torch.testing.assert_close(found.soft_labels.sum(1), torch.ones(8))
        assert named(found) == named(data)

    def test_of_joined_sets(self, names: tuple[str, ...]) -> None:
        joined = ImageSet.join([image_set(NAMES), image_set(names)])
        assert sorted(named(joined)) == sorted(2 * named(image_set(NAMES)))
        assert joined.soft_labels.argmax(1).equal(joined.labels)

    def test_of_images_to_start_from(self, names: tuple[str, ...]) -> None:
        settings = SynthesisSettings(batch_size=8, iterations=1)
        found = synthesize(Zoo([model()]), settings, start=image_set(names))
        assert found.labels.tolist() == [0, 1, 2, 3] * 2 and found.class_names == NAMES

    def test_of_evaluated_images(self, names: tuple[str, ...]) -> None:
        pixels = image_set(names).images
        expected = evaluate(model(), (pixels, torch.arange(8) % NUM_CLASSES)).top1
        assert evaluate(model(), image_set(names)).top1 == expected

    def test_of_a_data_set(self, names: tuple[str, ...]) -> None:
        data = image_set(names)
        pairs = TensorDataset(data.images, data.labels)
        pairs.classes = list(names)  # type: ignore[attr-defined]
        loader = DataLoader(Subset(pairs, range(8)), batch_size=4)
        assert as_image_set(loader, model()).labels.tolist() == [0, 1, 2, 3] * 2
        expected = evaluate(model(), (data.images, torch.arange(8) % NUM_CLASSES)).top1
        assert evaluate(model(), loader).top1 == expected

    def test_of_a_data_set_with_features(self, names: tuple[str, ...]) -> None:
        data = image_set(names)

        class Rows:
            features = {"label": SimpleNamespace(names=list(names))}

            def __len__(self) -> int:
                return len(data)

            def __getitem__(self, index: int) -> dict[str, object]:
                image, label = data[index]
                return {"image": image, "label": int(label)}

        assert as_image_set(Rows(), model()).labels.tolist() == [0, 1, 2, 3] * 2


def test_classes_that_are_missing() -> None:
    few = image_set((*NAMES, "gnu"))
    few.labels[0] = 4
    settings = SynthesisSettings(batch_size=8, iterations=1)
    with pytest.raises(InputError, match="the zoo has no classes gnu"):
        synthesize(Zoo([model()]), settings, start=few)
    with pytest.raises(InputError, match="plain has no classes gnu"):
        evaluate(model(), few)
    with pytest.warns(MixmixWarning, match="the predictions of plain are used as labels"):
        found = as_image_set(few, model())
    assert found.labels.equal(model().logits(few.images).argmax(1))


def test_other_classes_of_a_data_set() -> None:
    data = image_set(NAMES)
    pairs = TensorDataset(data.images, data.labels)
    pairs.classes = list(OTHERS)  # type: ignore[attr-defined]
    with pytest.warns(MixmixWarning, match=r"\(car, bus, van, tram\) are taken for"):
        evaluate(model(), pairs)
    pairs.classes = [*OTHERS, "bike"]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="the data has 5 classes"):
        evaluate(model(), pairs)


def test_a_set_without_names() -> None:
    data = image_set(NAMES)
    plain = ImageSet(data.images, data.labels, data.soft_labels, {})
    with pytest.warns(MixmixWarning, match="only one of them has names"):
        assert as_image_set(plain, model()) is plain
    declared = ImageSet(data.images, data.labels, data.soft_labels, {"label_set": "pets"})
    network = load(model(), label_set="pets")
    assert as_image_set(declared, network) is declared


def test_names_of_labels_come_before_those_of_networks() -> None:
    data = image_set(MOVED)
    manifest = {"classes": list(MOVED), "models": [{"name": "a", "classes": list(NAMES)}]}
    assert ImageSet(data.images, data.labels, data.soft_labels, manifest).classes == MOVED


class TestImageFolder:
    def labels(self, folder: Path, names: list[str], classes: tuple[str, ...]) -> list[int]:
        for name in names:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "0.png").write_bytes(b"")
        spec = replace(model().spec, num_classes=len(classes), classes=classes)
        return [label for _, label in image_folder(folder, spec).items]

    def test_names(self, tmp_path: Path) -> None:
        assert self.labels(tmp_path, ["Fox", "cat"], NAMES) == [2, 0]

    def test_folders_that_mixmix_writes(self, tmp_path: Path) -> None:
        names = ["0_cat", "2_fire_engine__truck"]
        assert self.labels(tmp_path, names, ("cat", "dog", "fire engine, truck")) == [0, 2]

    def test_names_of_other_classes(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="none is called wolf"):
            self.labels(tmp_path, ["cat", "dog", "fox", "wolf"], NAMES)
        for each in tmp_path.iterdir():
            (each / "0.png").unlink()
            each.rmdir()
        with pytest.warns(MixmixWarning, match="alphabetical order"):
            assert self.labels(tmp_path, list(OTHERS), NAMES) == [0, 1, 2, 3]

    def test_numbers_in_two_orders(self, tmp_path: Path) -> None:
        names = tuple(map(str, range(11)))
        with pytest.raises(DataError, match="numbered subfolders"):
            self.labels(tmp_path, list(names), tuple(f"class {name}" for name in names))
        assert self.labels(tmp_path, [], names)[2] == 10
