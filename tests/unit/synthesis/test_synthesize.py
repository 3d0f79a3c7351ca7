from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import INPUT_SHAPE, tiny_network, tiny_spec, tiny_teacher
from torch import nn

from mixmix import ImageSet, Model, SynthesisSettings, Zoo, recipe, synthesize
from mixmix.data.shards import Shard
from mixmix.errors import DataError, InputError
from mixmix.runtime.storage import read_json, sha256_of_tensors
from mixmix.synthesis.terms import BatchNormDistance, CrossEntropy

# Three shards, the last one smaller.
SETTINGS = SynthesisSettings(num_images=10, batch_size=4, iterations=3)


class Interrupted(Exception):
    pass


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Iterations of SETTINGS.
_TOTAL = 9


def interrupt_after(iterations: int) -> Any:
    def on_progress(what: str, fraction: float) -> None:
        if round(_TOTAL * fraction) >= iterations:
            raise Interrupted

    return on_progress


def counting(seen: list[int]) -> Any:
    return lambda what, fraction: seen.append(round(_TOTAL * fraction))


def num_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


class TestResult:
    def test_shapes_ranges_and_manifest(self, zoo: Zoo) -> None:
        data = synthesize(zoo, SETTINGS, seed=0)
        assert data.images.shape == (10, *INPUT_SHAPE) and data.images.dtype == torch.float32
        assert data.images.min() >= 0 and data.images.max() <= 1
        assert torch.equal(data.images, (data.images * 255).round() / 255)
        assert data.labels.tolist() == [i % 4 for i in range(10)]
        assert torch.allclose(data.soft_labels, zoo.soft_labels(data.images), atol=1e-6)
        manifest = data.manifest
        assert manifest["seed"] == 0 and manifest["settings"] == SETTINGS.to_dict()
        assert [m["name"] for m in manifest["models"]] == list(zoo.names)
        assert all(len(m["sha256"]) == 64 for m in manifest["models"])
        assert [s["num_images"] for s in manifest["shards"]] == [4, 4, 2]
        assert [row["iteration"] for row in manifest["shards"][0]["losses"]] == [0, 1, 2]
        assert set(manifest["shards"][0]["losses"][0]) == {"iteration", "bn", "ce", "tv"}

    @pytest.mark.parametrize("name", ["mixmix", "feature-mixing", "zeroq"])
    def test_what_is_matched_comes_closer(self, name: str, zoo: Zoo) -> None:
        settings = recipe(name, num_images=16, batch_size=16, iterations=40, members_per_step=None)
        losses = synthesize(zoo, settings, seed=0).manifest["shards"][0]["losses"]
        # The prior may rise for it. Of mixed images, as the last ones are, less can be asked.
        matched = {"bn", "ce"} & set(losses[0])
        assert matched and all(losses[-2][term] < losses[0][term] for term in matched)

    def test_labels_are_learned(self) -> None:
        settings = recipe(
            "feature-mixing",
            num_images=16,
            batch_size=16,
            iterations=40,
            terms=(CrossEntropy(),),
        )
        data = synthesize(Zoo([tiny_teacher("plain")]), settings, seed=0)
        # Chance is 1/4.
        assert data.manifest["shards"][0]["label_agreement"] >= 0.7

    def test_same_seed_same_bits_and_other_seed_other_images(self, zoo: Zoo) -> None:
        first = synthesize(zoo, SETTINGS, seed=3)
        torch.manual_seed(99)
        second = synthesize(zoo, SETTINGS, seed=3)
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.soft_labels, second.soft_labels)
        assert first.manifest == second.manifest
        assert not torch.equal(first.images, synthesize(zoo, SETTINGS, seed=4).images)

    @pytest.mark.parametrize("name", ["noise", "mixmix"])
    def test_no_image_is_made_twice(self, name: str, zoo: Zoo) -> None:
        iterations = 0 if name == "noise" else 2
        settings = recipe(name, num_images=12, batch_size=4, iterations=iterations)
        images = synthesize(zoo, settings, seed=0).images
        assert len(images.flatten(1).unique(dim=0)) == 12

    def test_global_generator_is_left_alone(self, zoo: Zoo) -> None:
        before = torch.get_rng_state()
        synthesize(zoo, SETTINGS, seed=0)
        assert torch.equal(torch.get_rng_state(), before)

    def test_in_memory_and_on_disk_agree(self, zoo: Zoo, tmp_path: Path) -> None:
        made = synthesize(zoo, SETTINGS, seed=0, out=tmp_path / "a" / "b")
        read = ImageSet.load(tmp_path / "a" / "b")
        assert made.path == read.path
        for data in (read, synthesize(zoo, SETTINGS, seed=0)):
            assert torch.equal(made.images, data.images)
            assert torch.equal(made.soft_labels, data.soft_labels)
        assert read.manifest == made.manifest

    def test_progress_counts_every_iteration(self, zoo: Zoo) -> None:
        seen: list[int] = []
        synthesize(zoo, SETTINGS, seed=0, on_progress=counting(seen))
        assert sorted(set(seen)) == list(range(1, 10))
        assert seen == sorted(seen)

    def test_part_of_the_zoo_at_each_step(self, zoo: Zoo) -> None:
        data = synthesize(zoo, recipe("mixmix", **_small(), members_per_step=1), seed=0)
        assert len(data) == 6


def _small() -> dict[str, int]:
    return {"num_images": 6, "batch_size": 6, "iterations": 4}


class TestResume:
    def test_interrupted_run_ends_with_the_same_bits(self, zoo: Zoo, tmp_path: Path) -> None:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        expected = synthesize(zoo, SETTINGS, seed=1, out=whole)
        with pytest.raises(Interrupted):
            synthesize(zoo, SETTINGS, seed=1, out=parts, on_progress=interrupt_after(5))
        unfinished = ["manifest.json", "shard-00000.json", "shard-00000.safetensors"]
        assert sorted(contents(parts)) == unfinished
        assert torch.equal(ImageSet.load(parts).images, expected.images[:4])
        seen: list[int] = []
        resumed = synthesize(zoo, SETTINGS, seed=1, out=parts, on_progress=counting(seen))
        assert seen[0] == 3
        assert contents(parts) == contents(whole)
        assert torch.equal(resumed.images, expected.images)
        assert resumed.manifest == expected.manifest

    def test_finished_run_is_only_read(self, zoo: Zoo, tmp_path: Path) -> None:
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        seen: list[int] = []
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path, on_progress=counting(seen))
        assert seen == [3, 6, 9]
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

    @pytest.mark.parametrize("damage", ["truncate", "remove"])
    def test_damaged_shard_is_made_again(self, damage: str, zoo: Zoo, tmp_path: Path) -> None:
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path)
        before = contents(tmp_path)
        path = tmp_path / "shard-00001.safetensors"
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:50])
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path)
        assert contents(tmp_path) == before

    def test_interrupt_between_shard_and_manifest(
        self, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*args: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            # By module object, since the package re-exports a function of the module's name.
            patch.setattr(
                import_module("mixmix.synthesis.shard_store"), "write_record", interrupted
            )
            with pytest.raises(KeyboardInterrupt):
                synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "parts")
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "parts")
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "whole")
        assert contents(tmp_path / "parts") == contents(tmp_path / "whole")

    def test_interrupt_while_the_entries_are_gathered(
        self, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*args: object, **options: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", interrupted)
            with pytest.raises(KeyboardInterrupt):
                synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "parts")
        assert len(ImageSet.load(tmp_path / "parts")) == 10
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "parts")
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "whole")
        assert contents(tmp_path / "parts") == contents(tmp_path / "whole")

    @pytest.mark.parametrize("entry", ["", "{}", "[]", '{"file": "shard-00000.safetensors"}'])
    def test_shard_with_a_damaged_entry_is_made_again(
        self, entry: str, zoo: Zoo, tmp_path: Path
    ) -> None:
        parts, whole = tmp_path / "parts", tmp_path / "whole"
        with pytest.raises(Interrupted):
            synthesize(zoo, SETTINGS, seed=1, out=parts, on_progress=interrupt_after(5))
        (parts / "shard-00000.json").write_text(entry)
        for out in (parts, whole):
            synthesize(zoo, SETTINGS, seed=1, out=out)
        assert contents(parts) == contents(whole)

    def test_shards_of_an_unknown_run_are_not_taken(self, zoo: Zoo, tmp_path: Path) -> None:
        parts = tmp_path / "parts"
        with pytest.raises(Interrupted):
            synthesize(zoo, SETTINGS, seed=2, out=parts, on_progress=interrupt_after(5))
        (parts / "manifest.json").unlink()
        before = contents(parts)
        with pytest.raises(InputError, match=r"contains shard-00000.json, but no manifest.json"):
            synthesize(zoo, SETTINGS, seed=1, out=parts)
        assert contents(parts) == before

    @pytest.mark.parametrize(
        ("settings", "seed", "message"),
        [
            (SynthesisSettings(num_images=10, batch_size=4, iterations=4), 1, "other settings"),
            (SETTINGS, 2, "another seed .1, now 2."),
        ],
    )
    def test_folder_of_another_run_is_refused(
        self, settings: SynthesisSettings, seed: int, message: str, zoo: Zoo, tmp_path: Path
    ) -> None:
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path)
        before = contents(tmp_path)
        with pytest.raises(InputError, match=f"{message}.*choose another folder"):
            synthesize(zoo, settings, seed=seed, out=tmp_path)
        assert contents(tmp_path) == before

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"sharpness": 1}, r"sharpness: 1, now absent"),
            ({"terms": [{"term": "unheard-of", "weight": 1.0}]}, r"terms\.unheard-of: \{"),
        ],
    )
    def test_settings_that_nobody_knows_are_refused(
        self, changes: dict[str, Any], message: str, zoo: Zoo, tmp_path: Path
    ) -> None:
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path)
        path = tmp_path / "manifest.json"
        manifest = read_json(path)
        path.write_text(json.dumps(manifest | {"settings": manifest["settings"] | changes}))
        with pytest.raises(InputError, match=f"made with other settings .{message}"):
            synthesize(zoo, SETTINGS, seed=1, out=tmp_path)

    def test_other_networks_are_refused(self, zoo: Zoo, tmp_path: Path) -> None:
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path)
        with pytest.raises(InputError, match="made from other networks .plain, residual, depth"):
            synthesize(Zoo([zoo[0], zoo[1]]), SETTINGS, seed=1, out=tmp_path)

    @pytest.mark.parametrize("shards", [None, 3, [{"file": "x"}]])
    def test_damaged_manifest_is_refused(self, shards: object, zoo: Zoo, tmp_path: Path) -> None:
        synthesize(zoo, SETTINGS, seed=1, out=tmp_path)
        path = tmp_path / "manifest.json"
        path.write_text(json.dumps(read_json(path) | {"shards": shards}))
        with pytest.raises(InputError, match="lists no shards"):
            synthesize(zoo, SETTINGS, seed=1, out=tmp_path)


class TestShardsSideBySide:
    def test_same_bits_as_one_after_the_other(self, zoo: Zoo, tmp_path: Path) -> None:
        for out, threads in (("one", 1), ("two", 2), ("three", 3)):
            data = synthesize(zoo, SETTINGS, seed=1, out=tmp_path / out, threads=threads)
            assert data.manifest["machine"]["threads_per_shard"] == 1
            in_memory = synthesize(zoo, SETTINGS, seed=1, threads=threads)
            assert torch.equal(in_memory.images, data.images)
        assert contents(tmp_path / "one") == contents(tmp_path / "two")
        assert contents(tmp_path / "one") == contents(tmp_path / "three")

    def test_progress_never_goes_back(self, zoo: Zoo) -> None:
        seen: list[int] = []
        synthesize(zoo, SETTINGS, seed=0, threads=3, on_progress=counting(seen))
        assert sorted(set(seen)) == list(range(1, 10))
        assert seen == sorted(seen)

    @pytest.mark.parametrize("damage", [None, "shard-00000", "shard-00001"])
    def test_interrupted_run_ends_with_the_same_bits(
        self, damage: str | None, zoo: Zoo, tmp_path: Path
    ) -> None:
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        synthesize(zoo, SETTINGS, seed=1, out=whole)
        before = torch.get_num_threads()
        with pytest.raises(Interrupted):
            # At least one of two shards is finished by then.
            progress = interrupt_after(7)
            synthesize(zoo, SETTINGS, seed=1, out=parts, threads=2, on_progress=progress)
        assert torch.get_num_threads() == before
        assert 1 <= len(list(parts.glob("shard-*.json"))) < 3
        if damage is not None:
            (parts / f"{damage}.safetensors").write_bytes(b"")
        synthesize(zoo, SETTINGS, seed=1, out=parts, threads=3)
        assert contents(parts) == contents(whole)

    def test_error_in_one_shard_keeps_the_others(
        self, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = import_module("mixmix.synthesis.synthesize")
        optimize_batch = module.optimize_batch

        def failing(zoo: Zoo, labels: torch.Tensor, *args: Any, **options: Any) -> Any:
            if len(labels) == 2:
                raise InputError("the last one fails")
            return optimize_batch(zoo, labels, *args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(module, "optimize_batch", failing)
            with pytest.raises(InputError, match="the last one fails"):
                synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "parts", threads=2)
        # One of the first two was finished, or else the last had not been started.
        assert list((tmp_path / "parts").glob("shard-*.json"))
        for out in ("parts", "whole"):
            synthesize(zoo, SETTINGS, seed=1, out=tmp_path / out, threads=2)
        assert contents(tmp_path / "parts") == contents(tmp_path / "whole")

    def test_folder_that_not_all_processes_see(
        self, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save = Shard.save

        def save_elsewhere(shard: Shard, path: Path) -> str:
            if path.stem == "shard-00001":
                path = tmp_path / "elsewhere" / path.name
            return save(shard, path)

        monkeypatch.setattr(Shard, "save", save_elsewhere)
        with pytest.raises(DataError, match="shard-00001.* is missing.* a shared folder"):
            synthesize(zoo, SETTINGS, seed=1, out=tmp_path / "here", threads=2)


class TestSideEffects:
    def test_networks_stay_as_they_were(self) -> None:
        model = tiny_network("residual").train()
        before = sha256_of_tensors(model.state_dict())
        teacher = Model(model, tiny_spec("residual"))
        synthesize(Zoo([teacher]), SETTINGS, seed=0)
        for module in (model, teacher.module):
            assert sha256_of_tensors(module.state_dict()) == before
            assert all(parameter.grad is None for parameter in module.parameters())
            assert num_hooks(module) == 0
        assert model.training and all(p.requires_grad for p in model.parameters())
        assert not any(p.requires_grad for p in teacher.module.parameters())

    def test_hooks_come_off_when_interrupted(self, zoo: Zoo) -> None:
        with pytest.raises(Interrupted):
            synthesize(zoo, SETTINGS, seed=0, on_progress=interrupt_after(1))
        assert all(num_hooks(teacher.module) == 0 for teacher in zoo)


class TestRefusals:
    def test_nothing_to_invert(self) -> None:
        zoo = Zoo([tiny_teacher("no-batch-norm")])
        with pytest.raises(InputError, match=r"no term \(bn\) applies to no-batch-norm"):
            synthesize(zoo, recipe("zeroq", **_small()), seed=0)

    def test_member_without_a_term_of_its_own_is_no_obstacle(self) -> None:
        zoo = Zoo([tiny_teacher("no-batch-norm"), tiny_teacher("plain")])
        settings = recipe("zeroq", **_small(), members_per_step=1)
        assert len(synthesize(zoo, settings, seed=0)) == 6

    def test_loss_that_explodes_is_named(self, zoo: Zoo) -> None:
        settings = SynthesisSettings(
            **_small(), terms=(BatchNormDistance(weight=1e38, distance="absolute"),)
        )
        with pytest.raises(InputError, match="not finite at iteration"):
            synthesize(zoo, settings, seed=0)

    def test_folder_that_cannot_be_written(self, zoo: Zoo, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot write"):
            synthesize(zoo, SETTINGS, seed=0, out=tmp_path / "file")


class TestStart:
    """Images to go on from, in place of noise."""

    def test_goes_on_from_images_and_their_labels(self, zoo: Zoo) -> None:
        start = synthesize(zoo, SETTINGS, seed=0)
        kept = ImageSet(start.images, start.labels.flip(0), start.soft_labels, start.manifest)
        settings = recipe("refine", batch_size=4, iterations=0)
        data = synthesize(Zoo([tiny_teacher("plain")]), settings, seed=0, start=kept)
        assert torch.equal(data.images, start.images)
        assert torch.equal(data.labels, kept.labels)
        assert data.manifest["start"] == {"sha256": kept.sha256, "models": list(zoo.names)}

    def test_few_iterations_bring_them_nearer_to_another_network(self, zoo: Zoo) -> None:
        start = synthesize(zoo, SETTINGS, seed=0)
        before = start.images.clone()
        settings = recipe("refine", batch_size=10, iterations=20, mixing_fraction=0.0)
        data = synthesize(Zoo([tiny_teacher("plain")]), settings, seed=0, start=start)
        losses = data.manifest["shards"][0]["losses"]
        assert losses[-1]["bn"] < losses[0]["bn"]
        assert torch.equal(start.images, before)

    def test_other_images_are_another_run(self, zoo: Zoo, tmp_path: Path) -> None:
        start = synthesize(zoo, SETTINGS, seed=0)
        settings = recipe("refine", batch_size=4, iterations=1)
        whole = synthesize(zoo, settings, seed=0, start=start, out=tmp_path)
        again = synthesize(zoo, settings, seed=0, start=start, out=tmp_path)
        assert torch.equal(whole.images, again.images)
        other = synthesize(zoo, SETTINGS, seed=1)
        with pytest.raises(InputError, match="from other images to start from"):
            synthesize(zoo, settings, seed=0, start=other, out=tmp_path)

    def test_images_of_another_kind_are_refused(self, zoo: Zoo) -> None:
        start = synthesize(zoo, SETTINGS, seed=0)
        smaller = ImageSet(start.images[:, :, 1:], start.labels, start.soft_labels, {})
        with pytest.raises(InputError, match="images to start from have shape"):
            synthesize(zoo, SETTINGS, seed=0, start=smaller)
        fewer = ImageSet(start.images, start.labels % 3, start.soft_labels[:, :3], {})
        with pytest.raises(InputError, match="it has 4 classes, the image set has 3"):
            synthesize(zoo, SETTINGS, seed=0, start=fewer)
