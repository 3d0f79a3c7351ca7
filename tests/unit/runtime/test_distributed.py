from __future__ import annotations

import pytest
import torch
from torch import nn

from mixmix.errors import InputError
from mixmix.runtime import distributed


@pytest.fixture
def as_rank(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The second of four processes on two machines."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    for name, value in zip(names, ("3", "4", "1", "2", "localhost"), strict=True):
        monkeypatch.setenv(name, value)
    return monkeypatch


class TestOneProcess:
    def test_is_the_main_one_and_nothing_is_exchanged(self) -> None:
        assert not distributed.launched()
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        assert distributed.local_world_size() == 1
        assert distributed.is_main()
        with distributed.process_group():
            distributed.barrier()
            assert distributed.gather("a") == ["a"]
            assert distributed.from_main(lambda: 3) == 3
        assert distributed.local_device("cuda") == "cuda"

    def test_model_stays_itself(self) -> None:
        model = nn.Linear(2, 2)
        assert distributed.data_parallel(model) is model


@pytest.mark.usefixtures("as_rank")
class TestLaunched:
    def test_numbers_of_the_launcher(self) -> None:
        assert distributed.launched() and not distributed.is_main()
        assert (distributed.rank(), distributed.world_size()) == (3, 4)
        assert distributed.local_world_size() == 2

    @pytest.mark.parametrize(
        ("asked", "expected"), [("cuda", "cuda:1"), ("cuda:0", "cuda:0"), ("cpu", "cpu")]
    )
    def test_device_of_the_rank(self, asked: str, expected: str) -> None:
        assert distributed.local_device(asked) == expected


class TestBatches:
    def test_passes_over_all_samples_in_whole_batches(self) -> None:
        batches = list(distributed.global_batches(10, 4, num_steps=5, seed=0))
        assert [len(batch) for batch in batches] == [4] * 5
        samples = torch.cat(batches)
        for one_pass in samples.split(10):
            assert one_pass.sort().values.tolist() == list(range(10))
        assert not torch.equal(samples[:10], samples[10:])

    def test_batch_larger_than_the_data(self) -> None:
        (batch,) = distributed.global_batches(3, 8, num_steps=1, seed=0)
        assert batch.bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])

    def test_seed_decides(self) -> None:
        def order(seed: int) -> list[int]:
            (batch,) = distributed.global_batches(50, 50, num_steps=1, seed=seed)
            return [int(index) for index in batch]

        assert order(1) == order(1) != order(2)

    def test_ranks_share_the_batches_of_one_process(self, as_rank: pytest.MonkeyPatch) -> None:
        slices = []
        for rank in range(4):
            as_rank.setenv("RANK", str(rank))
            slices.append(torch.stack(list(distributed.global_batches(9, 8, num_steps=3, seed=2))))
        as_rank.delenv("RANK")
        expected = torch.stack(list(distributed.global_batches(9, 8, num_steps=3, seed=2)))
        assert torch.equal(torch.cat(slices, dim=1), expected)

    def test_unequal_slices_are_refused(self, as_rank: pytest.MonkeyPatch) -> None:
        with pytest.raises(
            InputError, match="batch of 6 cannot be divided equally among 4 processes"
        ):
            distributed.slice_of_batch(torch.arange(6))

    @pytest.mark.parametrize(("num_samples", "batch_size"), [(0, 4), (4, 0)])
    def test_nothing_to_take(self, num_samples: int, batch_size: int) -> None:
        with pytest.raises(InputError, match="at least one sample"):
            next(distributed.global_batches(num_samples, batch_size, num_steps=1, seed=0))
