from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import NUM_CLASSES, tiny_images, tiny_network, tiny_spec
from torch import Tensor, nn

from mixmix import ImageSet
from mixmix.compress.train.augmentation import Augmentation
from mixmix.compress.train.image_source import SameImages
from mixmix.compress.train.settings import TrainingSettings
from mixmix.compress.train.train import Step, learning_rate_at, train_
from mixmix.errors import InputError

SETTINGS = TrainingSettings(steps=8, batch_size=8, learning_rate=1e-3, checkpoint_steps=3)


class WithDropout(nn.Module):
    """A layer that draws, and features beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 6, 3, stride=2), nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        features = torch.relu(nn.functional.dropout(self.body(x), 0.2, self.training))
        return self.head(features.mean((2, 3))), (features,)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WithDropout()


def train(
    settings: TrainingSettings, *, student: nn.Module | None = None, **options: object
) -> tuple[dict[str, Tensor], list[Step]]:
    trained = student or network(0).train()
    steps = train_(
        trained,
        network(1).eval(),
        tiny_images(20),
        tiny_spec("plain"),
        settings,
        seed=5,
        **options,  # type: ignore[arg-type]
    )
    return trained.state_dict(), steps


class Interrupted(Exception):
    pass


def interrupt_at(number: int) -> object:
    """A progress that breaks off."""
    calls = iter(range(number))

    def on_progress(what: str, share: float) -> None:
        if next(calls, None) is None:
            raise Interrupted

    return on_progress


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "weight_decay": 1e-3, "max_gradient_norm": 0.5},
        {"ema_decay": 0.9, "feature_weight": 0.0},
    ],
)
def test_interrupted_run_ends_with_the_same_bits(
    changes: dict[str, object], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
    whole, steps = train(settings)
    with pytest.raises(Interrupted):
        train(settings, out=tmp_path, on_progress=interrupt_at(4))
    torch.rand(3)  # draws elsewhere must not matter
    resumed, later = train(settings, out=tmp_path)
    assert later == steps[3:]
    again, none = train(settings, out=tmp_path)
    assert none == []
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]) and torch.equal(tensor, again[name])


def test_student_comes_nearer_and_teacher_stays() -> None:
    student, teacher = network(0), network(1).eval()
    before = copy.deepcopy(teacher.state_dict())
    heard: list[tuple[str, float]] = []
    steps = train_(
        student.eval(),
        teacher,
        tiny_images(20),
        tiny_spec("plain"),
        replace(SETTINGS, steps=150, learning_rate=2e-2),
        seed=0,
        on_progress=lambda what, share: heard.append((what, share)),
    )
    assert sum(s.loss for s in steps[-10:]) < 0.5 * sum(s.loss for s in steps[:10])
    assert [step.number for step in steps] == list(range(150))
    assert all(0 <= step.agreement <= 100 for step in steps)
    assert heard[-1][1] == 1.0 and "loss" in heard[-1][0] and "agreement" in heard[-1][0]
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())


def test_parameters_have_rates_of_their_own() -> None:
    student = network(0)
    before = copy.deepcopy(student.state_dict())
    after, _ = train(SETTINGS, student=student, rate_of=lambda name: float("body" in name))
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["body.weight"], after["body.weight"])


def test_mean_of_weights_lags_behind() -> None:
    start = network(0).state_dict()["head.weight"]
    last, mean = (
        train(replace(SETTINGS, steps=40, ema_decay=decay))[0]["head.weight"]
        for decay in (None, 0.999)
    )
    assert 0 < float((mean - start).norm()) < float((last - start).norm())


def test_divergence_is_told_and_the_checkpoint_stays(tmp_path: Path) -> None:
    class Failing(WithDropout):
        calls = 0

        def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            self.calls += 1
            logits, features = super().forward(x)
            return logits * (float("nan") if self.calls == 6 else 1.0), features

    failing = Failing()
    failing.load_state_dict(network(0).state_dict())
    with pytest.raises(InputError, match="diverged at step 5.*lower learning_rate.*checkpoint"):
        train(SETTINGS, student=failing.train(), out=tmp_path)
    resumed, _ = train(SETTINGS, out=tmp_path)
    whole, _ = train(SETTINGS)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    train(SETTINGS, out=tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["seed"] == 5
    with pytest.raises(InputError, match="another|other settings"):
        train(replace(SETTINGS, steps=9), out=tmp_path)
    with pytest.raises(InputError, match="other weights of student"):
        train(SETTINGS, student=network(4), out=tmp_path)


def test_nothing_to_train() -> None:
    with pytest.raises(InputError, match="no parameter of the student requires gradients"):
        train(SETTINGS, student=network(0).requires_grad_(False))


def test_learning_rate_rises_and_falls() -> None:
    settings = replace(SETTINGS, steps=100, warmup=0.1, learning_rate=0.5)
    rates = [learning_rate_at(step, settings) for step in range(100)]
    assert max(rates) == rates[10] == 0.5
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[0] < 0.06 and 0 < rates[-1] < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number > 0"),
        ({"kl_weight": -1.0}, "kl_weight must be a finite number >= 0"),
        ({"optimizer": "adam"}, "optimizer must be one of adamw, sgd, got 'adam'"),
        ({"warmup": 1.0}, "warmup must be in"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"max_gradient_norm": 0.0}, "max_gradient_norm must be a finite number > 0 or None"),
        ({"kl_weight": 0.0, "feature_weight": 0.0}, "every weight of the loss is 0"),
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingSettings(**changes)  # type: ignore[arg-type]


def test_settings_are_plain_json() -> None:
    content = TrainingSettings().to_dict()
    assert json.loads(json.dumps(content)) == content


class Replacing(SameImages):
    """Other images from step 4 on."""

    def images_for(self, step: int, student: nn.Module, data: ImageSet) -> ImageSet | None:
        return tiny_images(24) if step == 4 else None


def test_run_with_replaced_images_resumes(tmp_path: Path) -> None:
    whole, _ = train(SETTINGS, source=Replacing())
    without, _ = train(SETTINGS)
    with pytest.raises(Interrupted):
        train(SETTINGS, source=Replacing(), out=tmp_path, on_progress=interrupt_at(6))
    assert (tmp_path / "images-000004.safetensors").exists()
    resumed, _ = train(SETTINGS, source=Replacing(), out=tmp_path)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert not all(torch.equal(tensor, without[name]) for name, tensor in whole.items())


def test_replaced_images_keep_their_size() -> None:
    class Smaller(SameImages):
        def images_for(self, *_: object) -> ImageSet:
            data = tiny_images(7)
            return ImageSet(data.images[:, :, 1:], data.labels, data.soft_labels, {})

    with pytest.raises(InputError, match="use images of the same size"):
        train(SETTINGS, source=Smaller())


def test_plain_networks_give_logits_alone() -> None:
    student = tiny_network("residual").requires_grad_(True)
    settings = replace(SETTINGS, augmentation=Augmentation(mixing=("cutmix",)))
    steps = train_(
        student, tiny_network("plain"), tiny_images(20), tiny_spec("plain"), settings, seed=0
    )
    assert len(steps) == 8
