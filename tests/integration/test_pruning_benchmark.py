"""``benchmarks/pruning.py``: which cells there are, and what pruning without mixmix leaves."""

import pytest
import torch
from tiny_networks import tiny_images, tiny_teacher

from mixmix import PruneChannels, Quantize, compress
from mixmix.graph.costs import count_macs

pytestmark = pytest.mark.usefixtures("importable_benchmarks")


def test_images_are_made_on_the_way_only_where_training_is():
    from pruning_parts.cells import GENERATED, PLAIN, RECOVERIES, SETTINGS, SOURCES, all_cells

    cells = list(
        all_cells(
            networks=("resnet44",),
            settings=SETTINGS,
            recoveries=RECOVERIES,
            sources=SOURCES,
            seeds=(0,),
        )
    )
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.recovery for cell in cells if cell.source == GENERATED} == {"fine-tuning"}
    plain = {cell.setting for cell in cells if cell.recovery == PLAIN}
    assert "channels-50%" in plain
    assert not plain & {"2:4", "channels-50%-1.62x", "blocks-50%-1.65x"}


def test_imagenet_settings_say_what_is_pruned_and_how_it_recovers():
    from imagenet_parts.cells import Cell, method_of

    settings = {"reconstruction": None, "steps": 150}
    channels = Cell("channels-20%:fine-tuning", "noise", 0)
    method = method_of(channels, **settings)
    assert (channels.task, channels.what) == ("prune", "channels-20%")
    assert isinstance(method, PruneChannels)
    assert method.max_macs == pytest.approx(0.8)
    assert method.recovery[-1].training.steps == 150

    few_bits = Cell("W4A8", "noise", 0)
    assert (few_bits.task, few_bits.recovery) == ("quantize", "")
    assert isinstance(method_of(few_bits, **settings), Quantize)


def test_without_mixmix_budgets_are_met_and_zeros_stay():
    from pruning_parts.plain import PruneAndTrain

    teacher = tiny_teacher("plain")
    zeros = compress(teacher, tiny_images(), PruneAndTrain(0.5, structured=False, epochs=2), seed=0)
    kept = torch.cat([mask.flatten() for mask in zeros.masks.values()])
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.02)
    for name, mask in zeros.masks.items():
        assert not zeros.module.get_parameter(name)[~mask].any()

    small = compress(teacher, tiny_images(), PruneAndTrain(0.5, structured=True, epochs=1), seed=0)
    shape = teacher.spec.input_shape
    assert count_macs(small.module, shape) <= 0.5 * count_macs(teacher.module, shape)


@pytest.mark.parametrize(
    ("chosen", "header", "cell"),
    [
        ({"criterion": "obs", "allocation": "lamp"}, "obs, lamp", "0.250 (90.0%)"),
        (
            {"importance": "taylor", "min_share": 0.1, "parameters_ratio": 0.4},
            "taylor, at least 0.1",
            "0.250 (90.0%), 40%",
        ),
    ],
)
def test_choices_are_drawn_side_by_side(chosen, header, cell):
    from draw_choices import draw

    row = {"model": "vgg", "setting": "half", "images": "mixmix", "recovery": "bn"}
    measured = {"divergence": 0.25, "agreement": 90.0}
    record = {
        "rows": [row | chosen | measured],
        "commands": ["python x.py"],
        "date": "2026-01-01",
        "machine": {"cpu": "a CPU", "cores": 2},
    }
    lines = draw(record).splitlines()
    assert lines[2] == f"| network | setting | images | {header} |"
    assert lines[4] == f"| vgg | half | mixmix | {cell} |"
