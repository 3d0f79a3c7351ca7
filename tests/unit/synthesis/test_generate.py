from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_networks import INPUT_SHAPE, NUM_CLASSES

from mixmix import AmortizedSettings, ImageSet, SynthesisSettings, Zoo, generate, synthesize
from mixmix.errors import InputError

SETTINGS = AmortizedSettings(steps=2, batch_size=4, num_latents=16, latent_size=8, width=4)
OPTIONS = {"num_images": 10, "warmup_rounds": 2, "seed": 0}


def made(zoo: Zoo, out: Path | None = None, **changes: int) -> ImageSet:
    return generate(zoo, SETTINGS, out=out, **(OPTIONS | changes))  # type: ignore[arg-type]


def test_as_many_images_as_were_asked_for_and_the_same_ones_each_time(
    zoo: Zoo, tmp_path: Path
) -> None:
    data = made(zoo)
    assert data.images.shape == (10, *INPUT_SHAPE)
    assert data.soft_labels.shape == (10, NUM_CLASSES)
    assert [entry["num_images"] for entry in data.manifest["shards"]] == [4, 4, 2]
    kept = made(zoo, tmp_path / "images")
    assert torch.equal(kept.images, data.images)
    assert torch.equal(kept.labels, data.labels)
    assert not torch.equal(made(zoo, seed=1).images, data.images)


def test_a_run_goes_on_behind_its_last_round(zoo: Zoo, tmp_path: Path) -> None:
    rounds, num_rounds = [], 4

    def stop(what: str, fraction: float) -> None:
        rounds.append(round(num_rounds * fraction))
        if rounds[-1] == 3:
            raise KeyboardInterrupt

    out = tmp_path / "images"
    with pytest.raises(KeyboardInterrupt):
        generate(zoo, SETTINGS, out=out, on_progress=stop, **OPTIONS)  # type: ignore[arg-type]
    assert len(ImageSet.load(out)) == 8
    rounds.clear()
    data = generate(
        zoo,
        SETTINGS,
        out=out,
        on_progress=lambda what, fraction: rounds.append(round(num_rounds * fraction)),
        **OPTIONS,  # type: ignore[arg-type]
    )
    assert rounds == [3, 4]
    assert torch.equal(data.images, made(zoo).images)
    assert sorted(path.suffix for path in out.iterdir()) == [".json"] + 3 * [".safetensors"]


def test_a_finished_run_is_only_read_and_a_lost_shard_made_again(zoo: Zoo, tmp_path: Path) -> None:
    data = made(zoo, tmp_path)
    shard = tmp_path / data.manifest["shards"][1]["file"]
    other = tmp_path / data.manifest["shards"][0]["file"]
    before = other.stat().st_mtime_ns
    shard.unlink()
    assert torch.equal(made(zoo, tmp_path).images, data.images)
    assert other.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="other settings"):
        made(zoo, tmp_path, num_images=9)


@pytest.mark.parametrize("changes", [{"num_images": 0}, {"warmup_rounds": -1}])
def test_numbers_out_of_range(zoo: Zoo, changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(changes))} must be a whole number"):
        made(zoo, **changes)


def test_settings_of_another_kind(zoo: Zoo) -> None:
    with pytest.raises(InputError, match="must be AmortizedSettings, got SynthesisSettings"):
        generate(zoo, SynthesisSettings(), num_images=8)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be SynthesisSettings, got 'deepinversion'; recipe"):
        synthesize(zoo, "deepinversion")  # type: ignore[arg-type]
