from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mixmix.runtime.seeding import child_seed, generator


@given(st.integers(), st.lists(st.one_of(st.integers(), st.text())))
def test_child_seeds_are_in_range_and_repeat(seed: int, path: list[str | int]) -> None:
    first = child_seed(seed, *path)
    assert 0 <= first < 2**63
    assert child_seed(seed, *path) == first


def test_children_differ() -> None:
    seeds = {child_seed(seed, "shard", index) for seed in range(20) for index in range(20)}
    assert len(seeds) == 400


def test_child_seed_does_not_change_between_releases() -> None:
    # hashlib.sha256(b"0/shard/1"), first eight bytes, shifted by one.
    assert child_seed(0, "shard", 1) == 6026904505048663853


def test_generators_are_independent_of_the_global_one() -> None:
    torch.manual_seed(1)
    first = torch.rand(3, generator=generator(0, "a"))
    torch.manual_seed(2)
    assert torch.equal(first, torch.rand(3, generator=generator(0, "a")))
    assert not torch.equal(first, torch.rand(3, generator=generator(0, "b")))
