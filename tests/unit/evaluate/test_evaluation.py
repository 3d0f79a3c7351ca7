"""Evaluation: known accuracies for every kind of model and data, and one clear line of error."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mixmix.compress.method import Compressed
from mixmix.errors import DataError, InputError
from mixmix.evaluate.evaluation import Evaluation, evaluate
from mixmix.evaluate.intervals import wilson_interval
from mixmix.export import Artifact, export
from mixmix.models.model import Model
from mixmix.models.spec import ModelSpec

SPEC = ModelSpec("brightest", "module", (3, 8, 8), (0.2, 0.4, 0.6), (0.1, 0.2, 0.3), 3)


class Brightest(nn.Module):
    """Undoes the normalization, so that the class is the brightest channel of the image."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.order = list(order)
        self.register_buffer("mean", torch.tensor(SPEC.mean))
        self.register_buffer("std", torch.tensor(SPEC.std))

    def forward(self, x: Tensor) -> Tensor:
        return (x.mean((2, 3)) * self.std + self.mean)[:, self.order]


def images_of(classes: Tensor, size: int = 8) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    images = 0.5 * torch.rand(len(classes), 3, size, size, generator=draws)
    images[torch.arange(len(classes)), classes] += 0.4
    return images


CLASSES = torch.arange(30) % 3
IMAGES = images_of(CLASSES)
# 24 of 30 labels are right.
LABELS = torch.where(torch.arange(30) < 6, (CLASSES + 1) % 3, CLASSES)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("evaluation") / "m.onnx"
    return export(Compressed(Brightest(), SPEC), path)


@pytest.mark.parametrize("kind", ["teacher", "compressed", "artifact", "path", "text"])
def test_every_kind_of_model(artifact: Artifact, kind: str) -> None:
    model = {
        "teacher": Model(Brightest(), SPEC),
        "compressed": Compressed(Brightest(), SPEC),
        "artifact": artifact,
        "path": artifact.path,
        "text": str(artifact.path),
    }[kind]
    result = evaluate(model, (IMAGES, LABELS), batch_size=7)
    assert result.top1 == 80 and result.num_images == 30
    assert result.agreement is None and result.agreement_interval is None
    assert torch.equal(result.predictions, CLASSES)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS.tolist(), strict=True))


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS),
        ((IMAGES * 255).round().to(torch.uint8), LABELS.to(torch.int32)),
        (images_of(CLASSES, 20), LABELS),
        TensorDataset(IMAGES, LABELS),
        DataLoader(TensorDataset(IMAGES, LABELS), batch_size=11),
        Stream(),
    ],
    ids=["floats", "uint8", "larger", "dataset", "loader", "stream"],
)
def test_every_kind_of_data(artifact: Artifact, data: object) -> None:
    for model in (Model(Brightest(), SPEC), artifact):
        result = evaluate(model, data, batch_size=8)
        assert result.top1 == 80
        assert torch.equal(result.predictions, CLASSES)


def test_agreement_is_with_the_reference_not_the_labels(artifact: Artifact) -> None:
    swapped = Compressed(Brightest((0, 2, 1)), SPEC)
    result = evaluate(artifact, (IMAGES, LABELS), reference=swapped)
    assert result.agreement == pytest.approx(100 / 3)
    low, high = wilson_interval(10, 30)
    assert result.agreement_interval == pytest.approx((100 * low, 100 * high))
    assert evaluate(swapped, (IMAGES, LABELS), reference=swapped).agreement == 100


def test_to_dict_is_json_and_holds_no_predictions() -> None:
    result = evaluate(Model(Brightest(), SPEC), (IMAGES, LABELS))
    content = json.loads(json.dumps(result.to_dict()))
    assert content["top1"] == 80 and content["num_images"] == 30
    assert "predictions" not in content
    with pytest.raises(AttributeError):
        result.top1 = 0.0  # type: ignore[misc]
    assert isinstance(result, Evaluation)


def test_progress_reaches_one() -> None:
    seen: list[float] = []
    evaluate(
        Model(Brightest(), SPEC),
        (IMAGES, LABELS),
        batch_size=20,
        on_progress=lambda what, share: seen.append(share),
    )
    assert seen == [0.5, 1.0]


class Pictures(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return {"image": IMAGES[index], "label": 0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((IMAGES[:0], LABELS[:0]), "no images to evaluate on"),
        ((IMAGES[:, :1], LABELS), "takes images of 3 channels"),
        ((IMAGES[0], LABELS[:3]), "takes images of 3 channels"),
        ((IMAGES, LABELS + 1), "label 3 is out of range: brightest has 3 classes, 0 to 2"),
        ((IMAGES, LABELS - 1), "label -1 is out of range"),
        ((IMAGES, LABELS.float()), "labels must be class indices"),
        ((IMAGES[:5], LABELS), "5 images and 30 labels"),
        ((IMAGES * 4 - 2, LABELS), r"must be in \[0, 1\], got values from"),
        ((IMAGES * float("nan"), LABELS), r"must be in \[0, 1\], got NaN"),
        ((IMAGES.long(), LABELS), "uint8 or floats"),
        ((IMAGES, [0] * 30), "two tensors"),
        ([IMAGES, LABELS], "cannot evaluate on a list"),
        (Pictures(), "pair"),
    ],
)
def test_wrong_data(data: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        evaluate(Model(Brightest(), SPEC), data)
    assert "\n" not in str(caught.value)


def test_wrong_models(artifact: Artifact, tmp_path: Path) -> None:
    data = (IMAGES, LABELS)

    def fails(match: str, model: object, **keywords: object) -> None:
        with pytest.raises(InputError, match=match) as caught:
            evaluate(model, data, **keywords)
        assert "\n" not in str(caught.value)

    fails("no ONNX file at .*absent.onnx", tmp_path / "absent.onnx")
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(artifact.path.read_bytes()[:200])
    fails("corrupt.onnx is no valid ONNX model", corrupt)
    fails("Brightest: a module does not specify its input_shape, mean, std", Brightest())
    fails("cannot load an object of type int; expected", 3)
    (tmp_path / "m.txt").write_text("text")
    fails("ends in .onnx", tmp_path / "m.txt")
    fails(
        "reference .* has 4",
        artifact,
        reference=Compressed(
            Brightest((0, 1, 2, 0)), ModelSpec.from_dict(SPEC.to_dict() | {"num_classes": 4})
        ),
    )
    fails(
        "no label head",
        Compressed(Brightest(), ModelSpec.from_dict(SPEC.to_dict() | {"num_classes": 0})),
    )
    fails("batch_size must be at least 1", artifact, batch_size=0)


class Overflowing(Brightest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log() * 0 / 0


def test_nan_logits() -> None:
    with pytest.raises(InputError, match="brightest returns NaN or infinite logits"):
        evaluate(Model(Overflowing(), SPEC), (IMAGES, LABELS))


def test_files_of_others_need_a_spec(artifact: Artifact, tmp_path: Path) -> None:
    model = onnx.load(artifact.path)
    del model.metadata_props[:]
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    with pytest.raises(
        InputError, match=r"does not specify its mean, std; add --mean, --std, or in "
    ):
        evaluate(path, (IMAGES, LABELS))
    assert evaluate(path, (IMAGES, LABELS), spec=SPEC).top1 == 80
    fields = {"mean": SPEC.mean, "std": SPEC.std, "classes": ("red", "green", "blue")}
    assert evaluate(path, (IMAGES, LABELS), spec=fields).class_accuracy[1].name == "green"
    wrong = ModelSpec.from_dict(SPEC.to_dict() | {"num_classes": 5})
    with pytest.raises(InputError, match=r"logits of shape \(30, 3\), expected \(30, 5\)"):
        evaluate(path, (IMAGES, LABELS), spec=wrong)
    small = ModelSpec.from_dict(SPEC.to_dict() | {"input_shape": [3, 4, 4]})
    with pytest.raises(InputError, match="foreign.onnx cannot run on images of"):
        evaluate(path, (IMAGES, LABELS), spec=small)


def onnx_of(module: nn.Module, example: Tensor, path: Path, *, channels_last: bool) -> Path:
    """A file as other exporters write it: for one batch size, perhaps with channels last."""
    shape = list(example.shape)
    image = [shape[i] for i in (0, 2, 3, 1)] if channels_last else shape
    axes = [1, 2] if channels_last else [2, 3]
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["means"], keepdims=0),
        helper.make_node("Mul", ["means", "std"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mean"], ["logits"]),
    ]
    values = {"axes": np.array(axes), "std": np.float32(SPEC.std), "mean": np.float32(SPEC.mean)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [shape[0], 3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("channels_last", [False, True])
def test_files_for_one_batch_size_or_with_channels_last(
    tmp_path: Path, batch: int, channels_last: bool
) -> None:
    example = torch.zeros(batch, *SPEC.input_shape)
    path = onnx_of(Brightest(), example, tmp_path / "m.onnx", channels_last=channels_last)
    fields = {"mean": SPEC.mean, "std": SPEC.std}
    result = evaluate(path, (IMAGES, LABELS), spec=fields, batch_size=7)
    assert result.top1 == 80 and torch.equal(result.predictions, CLASSES)


def test_top5_and_accuracy_by_class() -> None:
    class Ranked(nn.Module):
        """Logits of seven classes that fall from that of the brightest pixel."""

        def forward(self, x: Tensor) -> Tensor:
            first = x.flatten(1).argmax(1, keepdim=True)
            return -((torch.arange(7.0) - first) % 7)

    spec = ModelSpec("ranked", "module", (1, 1, 7), 0.0, 1.0, 7, classes=tuple("abcdefg"))
    images = torch.eye(7).view(7, 1, 1, 7)
    labels = (torch.arange(7) + torch.tensor([0, 0, 1, 1, 4, 5, 6])) % 7  # ranks of the labels
    result = evaluate(Model(Ranked(), spec), (images, labels))
    assert result.top1 == pytest.approx(200 / 7) and result.top5 == pytest.approx(500 / 7)
    found = {each.name: each for each in result.class_accuracy}
    # Labels are a b d e b d f, the network says a b c d e f g.
    assert [(each.name, each.num_images) for each in result.class_accuracy] == [
        *(("a", 1), ("b", 2), ("d", 2), ("e", 1), ("f", 1))
    ]
    assert found["a"].accuracy == 100 and found["a"].taken_for is None
    assert found["b"].accuracy == 50 and found["b"].taken_for == "e"
    content = json.loads(json.dumps(result.to_dict()))
    assert content["class_accuracy"][0]["name"] == "a" and len(content["top5_interval"]) == 2


def test_no_top5_of_few_classes() -> None:
    assert evaluate(Model(Brightest(), SPEC), (IMAGES, LABELS)).top5 is None


@pytest.mark.parametrize("value", [0, 128, 255])
def test_bytes_are_parts_of_255(value: int) -> None:
    class Reading(nn.Module):
        """Tells which byte an image was made of."""

        def forward(self, x: Tensor) -> Tensor:
            levels = torch.arange(256) / 255
            return -(x.mean((1, 2, 3))[:, None] - levels).abs()

    spec = ModelSpec("reading", "module", (1, 2, 2), (0.0,), (1.0,), 256)
    images = torch.full((3, 1, 2, 2), value, dtype=torch.uint8)
    found = evaluate(Model(Reading(), spec), (images, torch.full((3,), value)))
    assert found.predictions.tolist() == [value] * 3
