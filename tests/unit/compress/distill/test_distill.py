from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_networks import (
    TinyStudent,
    tiny_images,
    tiny_network,
    tiny_spec,
    tiny_teacher,
)
from torch import nn

from mixmix import (
    AmortizedSettings,
    Compressed,
    Distill,
    FineTune,
    GeneratedImages,
    Prune,
    Quantize,
    QuantizeAware,
    TrainingSettings,
    Zoo,
    compress,
    export,
    load_sparse,
    sparsity_of,
)
from mixmix.compress.distill.feature_taps import with_feature_taps
from mixmix.errors import CaptureError, InputError
from mixmix.models.model import normalize

TRAINING = TrainingSettings(
    steps=6, batch_size=4, optimizer="sgd", learning_rate=0.02, ema_decay=0.9, checkpoint_steps=2
)
SYNTHESIS = AmortizedSettings(
    steps=2,
    batch_size=4,
    num_latents=8,
    latent_size=8,
    width=4,
)


class Interrupted(Exception):
    pass


@pytest.fixture
def zoo() -> Zoo:
    return Zoo([tiny_teacher("plain"), tiny_teacher("residual")])


@pytest.fixture
def student() -> TinyStudent:
    torch.manual_seed(0)
    return TinyStudent()


def generated(zoo: Zoo, **changes: Any) -> GeneratedImages:
    few = {"warmup_rounds": 1, "first_rounds": 1, "every_steps": 3, "capacity": 16}
    return GeneratedImages(zoo, **{"synthesis": SYNTHESIS, **few, **changes})


def distilled(student: nn.Module, data: Any, **options: Any) -> dict[str, torch.Tensor]:
    method = Distill(student, **{"training": TRAINING, **options})
    return compress(tiny_teacher("plain"), data, method, seed=0).module.state_dict()


class TestResult:
    def test_learns_what_its_teacher_predicts(self, student: TinyStudent) -> None:
        teacher, data = tiny_teacher("plain"), tiny_images(24)
        training = replace(TRAINING, steps=120, batch_size=12, learning_rate=0.1)
        before = {name: t.clone() for name, t in student.state_dict().items()}
        result = compress(teacher, data, Distill(student, training), seed=0)
        with torch.no_grad():
            wanted = teacher(data.images).argmax(1)
            found = result.module(normalize(data.images, result.spec)).argmax(1)
        assert float((found == wanted).float().mean()) > 0.7
        assert all(torch.equal(before[name], t) for name, t in student.state_dict().items())
        assert not result.module.training
        assert [record.action for record in result.records] == ["trained"] * 5
        assert result.settings[-1]["method"] == "distill" and result.spec.name == "TinyStudent"

    def test_a_reference_is_built_with_fresh_weights(self) -> None:
        data = tiny_images(8)
        method = Distill(python_spec(), replace(TRAINING, steps=1, learning_rate=1e-9))
        results = [
            compress(tiny_teacher("plain"), data, method, seed=seed).module.state_dict()
            for seed in (0, 0, 1)
        ]
        assert torch.equal(results[0]["8.weight"], results[1]["8.weight"])
        assert not torch.allclose(results[0]["8.weight"], results[2]["8.weight"], atol=1e-3)

    def test_is_exported_and_its_weights_load_without_its_zeros(
        self, student: TinyStudent, tmp_path: Path
    ) -> None:
        result = compress(tiny_teacher("plain"), tiny_images(8), Distill(student, TRAINING), seed=0)
        export(result, tmp_path / "student.onnx")
        export(result, tmp_path / "student.safetensors", format="sparse")
        student.load_state_dict(load_sparse(tmp_path / "student.safetensors"))
        loaded = student.state_dict()
        assert all(torch.equal(t, loaded[name]) for name, t in result.module.state_dict().items())

    def test_learns_from_features_too(self, student: TinyStudent) -> None:
        teacher, data = tiny_teacher("residual"), tiny_images(8)
        without, features = (
            compress(
                teacher, data, Distill(student, replace(TRAINING, feature_weight=weight)), seed=0
            ).module.state_dict()
            for weight in (0.0, 10.0)
        )
        assert not torch.equal(without["0.weight"], features["0.weight"])
        assert int(features["1.num_batches_tracked"]) == TRAINING.steps


class TestImagesMadeOnTheWay:
    def test_needs_none_to_begin_with(self, student: TinyStudent, zoo: Zoo) -> None:
        state = distilled(student, None, fresh=generated(zoo))
        again = distilled(student, None, fresh=generated(zoo))
        assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())

    @pytest.mark.parametrize("stopped_at", [1, 3, 5])
    def test_run_resumes(
        self,
        stopped_at: int,
        student: TinyStudent,
        zoo: Zoo,
        tmp_path: Path,
    ) -> None:
        fresh = generated(zoo)
        whole = distilled(student, None, fresh=fresh)

        def stop(what: str, share: float) -> None:
            if share >= stopped_at / TRAINING.steps:
                raise Interrupted

        method = Distill(student, TRAINING, fresh, checkpoints=tmp_path)
        with pytest.raises(Interrupted):
            compress(tiny_teacher("plain"), None, method, seed=0, on_progress=stop)
        resumed = compress(tiny_teacher("plain"), None, method, seed=0).module.state_dict()
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
        assert len(list(tmp_path.glob("images-*"))) == 1
        other = replace(method, fresh=replace(fresh, every_steps=2))
        with pytest.raises(InputError, match="another folder"):
            compress(tiny_teacher("plain"), None, other, seed=0)
        kept = load_file(tmp_path / "student.safetensors")
        assert all(torch.equal(tensor, kept[name]) for name, tensor in whole.items())

    def test_pruned_and_quantized_networks_learn_from_them_too(self, zoo: Zoo) -> None:
        teacher, data = tiny_teacher("residual"), tiny_images(8)

        def result(fresh: GeneratedImages | None) -> Compressed:
            tuned = FineTune(TRAINING, fresh=fresh)
            trained = QuantizeAware(Quantize("W4A4"), TRAINING, fresh=fresh, held_out=0)
            return compress(teacher, data, [Prune(0.5, rounds=1, recovery=tuned), trained], seed=0)

        with_them, without = result(generated(zoo)), result(None)
        assert sparsity_of(with_them.module).total == sparsity_of(without.module).total >= 0.4
        logits = [each.module(normalize(data.images, each.spec)) for each in (with_them, without)]
        assert not torch.equal(*logits)

    def test_bank_keeps_what_was_given_and_the_newest(self, student: TinyStudent, zoo: Zoo) -> None:
        source = generated(zoo, every_steps=1).source(student, tiny_spec("plain"), seed=0)
        given = data = tiny_images(5)
        sizes = []
        for step in range(3):
            found = source.images_for(step, student, data)
            assert found is not None
            assert torch.equal(found.images[:5], given.images)
            last, data = data, found
            sizes.append(len(data))
        assert sizes == [13, 21, 21]
        assert torch.equal(data.images[5:13], last.images[13:21])
        few = generated(zoo, first_rounds=3, capacity=8).source(student, tiny_spec("plain"), seed=0)
        found = few.images_for(0, student, given)
        assert found is not None and len(found) == 13


def test_what_is_compared_is_what_is_given_last_at_a_size() -> None:
    def network() -> nn.Sequential:
        body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
        body += [layer for _ in range(2) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()

    torch.manual_seed(0)
    pair, example = (network(), network()), torch.randn(2, 3, 6, 6)
    for found, plain in zip(with_feature_taps(*pair, example, seed=0), pair, strict=True):
        logits, features = found(example)
        torch.testing.assert_close(logits, plain(example))
        # What pools belongs to the layer before it.
        for feature, wanted in zip(features, (plain[:4], plain[:8]), strict=True):
            torch.testing.assert_close(feature, wanted(example))


class TestTeachers:
    def test_stages_share_weights_and_give_the_same_logits(self, student: TinyStudent) -> None:
        teacher = tiny_network("residual").eval()
        inputs = normalize(tiny_images(3).images, tiny_spec("residual"))
        pair = with_feature_taps(student.eval(), teacher, inputs, seed=0)
        for network, stages in zip((student, teacher), pair, strict=True):
            logits, features = stages(inputs)
            assert torch.allclose(logits, network(inputs), atol=1e-5)
            assert len(features) > 0
        shapes = [[f.shape for f in stages(inputs)[1]] for stages in pair]
        assert shapes[0] == shapes[1]

    def test_other_widths_are_projected(self, student: TinyStudent) -> None:
        inputs = normalize(tiny_images(3).images, tiny_spec("residual"))
        first, again = (
            with_feature_taps(student.eval(), tiny_network("residual").eval(), inputs, seed=0)[0]
            for _ in range(2)
        )
        projections = list(first.projections.named_parameters())
        assert projections
        for name, parameter in projections:
            assert parameter.requires_grad
            assert torch.equal(parameter, again.projections.get_parameter(name))


def python_spec() -> Any:
    return replace(tiny_spec("plain"), source="python:tiny_networks:TinyStudent", sha256="")


def test_refuses_what_does_not_fit(student: TinyStudent, zoo: Zoo) -> None:
    with pytest.raises(InputError, match=r"returns \(2, 7\) for 2 images, the teacher \(2, 4\)"):
        distilled(TinyStudent(7), tiny_images(4))
    with pytest.raises(InputError, match="cannot take images"):
        distilled(nn.Conv2d(5, 3, 1), tiny_images(4))
    with pytest.raises(InputError, match="capacity must be a whole number >= 8, got 7"):
        generated(zoo, capacity=7)


def test_says_how_to_do_without_a_graph() -> None:
    class Branching(TinyStudent):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x if float(x.sum()) > 0 else -x)

    with pytest.raises(CaptureError, match="feature_weight=0"):
        distilled(Branching(), tiny_images(4))
    distilled(Branching(), tiny_images(4), training=replace(TRAINING, feature_weight=0.0))
