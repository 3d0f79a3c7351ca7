from __future__ import annotations

from importlib import import_module

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_networks import NETWORKS, tiny_network, tiny_spec, tiny_teacher
from torch import nn

from mixmix import Model, SynthesisSettings, Zoo
from mixmix.errors import InputError
from mixmix.synthesis.schedule import Schedule, plan, schedule, shard_bytes

GIB = 2**30


@pytest.mark.parametrize(
    ("num_shards", "threads", "expected"),
    [
        (1, 1, (1, 1)),
        (1, 8, (1, 8)),
        (2, 8, (2, 4)),
        (3, 8, (3, 2)),
        (5, 8, (5, 1)),
        (100, 8, (8, 1)),
        (100, 1, (1, 1)),
    ],
)
def test_threads_go_to_shards_first(
    num_shards: int, threads: int, expected: tuple[int, int]
) -> None:
    found = schedule(num_shards, threads, shard_bytes=1, budget=GIB)
    assert (found.shards_at_once, found.threads_per_shard) == expected


@pytest.mark.parametrize(
    ("gib_per_shard", "expected"),
    [(1, (8, 1)), (2, (4, 2)), (3, (2, 4)), (5, (1, 8)), (99, (1, 8))],
)
def test_shards_fit_into_the_budget(gib_per_shard: int, expected: tuple[int, int]) -> None:
    found = schedule(100, 8, shard_bytes=gib_per_shard * GIB, budget=8 * GIB)
    peak = expected[0] * gib_per_shard * GIB
    assert found == Schedule(*expected, peak_bytes=peak)


NUMBERS = st.integers(1, 200)


@given(NUMBERS, NUMBERS, st.integers(0, 9 * GIB), st.integers(GIB, 64 * GIB), NUMBERS)
def test_processes_change_nothing_but_what_each_of_them_does(
    num_shards: int, threads: int, shard_bytes: int, budget: int, num_processes: int
) -> None:
    alone = schedule(num_shards, threads, shard_bytes=shard_bytes, budget=budget)
    shared = schedule(
        num_shards, threads, shard_bytes=shard_bytes, budget=budget, num_processes=num_processes
    )
    assert shared.threads_per_shard == alone.threads_per_shard
    assert shared.shards_at_once == max(1, alone.shards_at_once // num_processes)
    assert alone.shards_at_once * alone.threads_per_shard <= threads
    if alone.shards_at_once > 1:
        assert alone.shards_at_once * shard_bytes <= budget


class TestShardBytes:
    def test_what_autograd_keeps_is_counted(self) -> None:
        # Sigmoid keeps its output, 3 x 16 x 16 floats an image; the mean keeps no tensor, and the
        # subtraction and division of the normalization keep the standard deviation at most.
        class Mean(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.sigmoid(x).mean((2, 3))

        zoo = Zoo([Model(Mean(), tiny_spec("plain", num_classes=3))])
        found = shard_bytes(zoo, SynthesisSettings(batch_size=10))
        activations = 3 * 16 * 16 * 4
        assert 2 * 10 * activations <= found <= 2 * 10 * (activations + 64)

    @pytest.mark.parametrize("name", list(NETWORKS))
    def test_grows_with_the_batch_and_not_with_the_weights(self, name: str) -> None:
        zoo = Zoo([tiny_teacher(name)])
        small, large = (shard_bytes(zoo, SynthesisSettings(batch_size=n)) for n in (5, 50))
        assert large == 10 * small > 0

    def test_networks_of_a_step_are_added_and_the_largest_counted_if_drawn(self) -> None:
        teachers = [tiny_teacher(name) for name in ("plain", "residual", "depthwise")]

        def size(members: list[Model], drawn: int | None) -> int:
            settings = SynthesisSettings(batch_size=8, members_per_step=drawn)
            return shard_bytes(Zoo(members), settings)

        single = sorted(size([teacher], 1) for teacher in teachers)
        assert size(teachers, 1) == single[2]
        assert size(teachers, 2) == single[1] + single[2]
        assert size(teachers, None) == size(teachers, 7) == sum(single)

    def test_large_images_cost_more(self) -> None:
        model = tiny_network("plain")
        small, large = (
            Zoo([Model(model, tiny_spec("plain", input_shape=[3, side, side]))])
            for side in (16, 64)
        )
        settings = SynthesisSettings(batch_size=8)
        assert shard_bytes(large, settings) > 12 * shard_bytes(small, settings)


class TestPlan:
    SETTINGS = SynthesisSettings(num_images=10, batch_size=4, iterations=3)

    def test_threads_of_torch_unless_given(self, zoo: Zoo) -> None:
        assert planned(zoo, self.SETTINGS) == (1, torch.get_num_threads())
        assert planned(zoo, self.SETTINGS, threads=6) == (3, 2)

    @pytest.mark.parametrize(("ranks", "expected"), [("1", (3, 2)), ("2", (1, 2)), ("3", (1, 2))])
    def test_processors_of_the_machine_under_torchrun(
        self,
        ranks: str,
        expected: tuple[int, int],
        zoo: Zoo,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name, value in {
            "RANK": "0",
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": "localhost",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(import_module("mixmix.synthesis.schedule"), "usable_cpus", lambda: 7)
        assert planned(zoo, self.SETTINGS) == expected

    def test_little_memory(self, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
        module = import_module("mixmix.synthesis.schedule")
        need = plan(zoo, self.SETTINGS, threads=1).peak_bytes
        assert need > shard_bytes(zoo, self.SETTINGS)
        monkeypatch.setattr(module, "memory_bytes", lambda: 4 * need)
        assert planned(zoo, self.SETTINGS, threads=6) == (2, 3)
        monkeypatch.setattr(module, "memory_bytes", lambda: 2 * need)
        assert planned(zoo, self.SETTINGS, threads=6) == (1, 6)

    def test_a_shard_that_does_not_fit_is_processed_in_chunks(self, zoo: Zoo) -> None:
        whole = plan(zoo, self.SETTINGS, threads=1)
        assert whole.chunk_size is None
        of_one = shard_bytes(zoo, self.SETTINGS) // 4
        tight = (whole.peak_bytes - of_one) / 2**30
        found = plan(zoo, self.SETTINGS, threads=1, memory_gib=tight)
        assert found.chunk_size == 3
        assert found.peak_bytes <= tight * 2**30

    def test_a_budget_below_one_image(self, zoo: Zoo) -> None:
        with pytest.raises(
            InputError, match="batches of 4, processed one image at a time, take 0.00 GiB"
        ):
            plan(zoo, self.SETTINGS, memory_gib=1e-6)
        for absurd in (float("nan"), float("inf"), -1.0):
            with pytest.raises(InputError, match="memory_gib must be a finite number > 0, got"):
                plan(zoo, self.SETTINGS, memory_gib=absurd)


def planned(zoo: Zoo, settings: SynthesisSettings, **options: int) -> tuple[int, int]:
    found = plan(zoo, settings, **options)
    return found.shards_at_once, found.threads_per_shard
