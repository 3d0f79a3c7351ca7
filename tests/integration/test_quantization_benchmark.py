"""``benchmarks/quantization.py``: which cells come first, and what is drawn of them."""

import pytest

pytestmark = pytest.mark.usefixtures("importable_benchmarks")


def test_hard_settings_come_first_and_other_networks_once():
    from quantization_parts.cells import Cell, all_cells

    cells = list(
        all_cells(
            networks=("resnet20", "bundled:vgg"),
            settings=("W2A4", "W4A4"),
            sources=("mixmix", "noise"),
            seeds=(0, 1),
        )
    )
    assert cells[:4] == [
        Cell("quantize", network, "W2A4", source, 0)
        for network in ("resnet20", "bundled:vgg")
        for source in ("mixmix", "noise")
    ]
    assert len(cells) == 2 * 2 * 2 + 2
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.setting for cell in cells[-4:]} == {"W4A4"}


def test_leads_are_paired_by_seed():
    from draw_quantization import draw

    def row(images: str, seed: int, top1: float, setting: str = "W2A4") -> dict:
        return {
            "model": "net",
            "task": "quantize",
            "setting": setting,
            "images": images,
            "num_images": 256,
            "seed": seed,
            "top1": top1,
        }

    rows = [row("float", 0, 92.0, "float")]
    rows += [row("mixmix", seed, 88.0 + seed) for seed in (0, 1, 2)]
    rows += [row("noise", seed, 80.0 + seed) for seed in (0, 1)]
    record = {
        "rows": rows,
        "machine": {"cores": 2, "cpu": "cpu"},
        "commands": ["command"],
        "date": "2026-01-01",
    }
    drawn = draw(record)
    assert "| mixmix | 89.00 ± 2.48 (3) |  |" in drawn  # 4.303 / sqrt(3)
    assert "| noise | 80.50 ± 6.35 (2) | +8.00 ± 0.00 (2) |" in drawn  # 12.706 * 0.7071 / sqrt(2)
    assert "92.00 in floats" in drawn
