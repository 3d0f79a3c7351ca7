"""No file runs code, and every input ends well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx2torch", reason="onnx2torch is not installed")
_ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(_ROOT))

from attacks.attack import ATTACKS, Attack, execute  # noqa: E402
from attacks.run import FAMILIES  # noqa: E402
from campaigns.inputs import FAULTS, one  # noqa: E402


@pytest.mark.filterwarnings("ignore")  # of other packages, about hostile files
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda each: each.name)
def test_attack_fails(attack: Attack) -> None:
    verdict = execute(attack)
    assert not verdict.executed
    assert verdict.is_good, verdict.endings


def test_all_attacks_are_in_the_table() -> None:
    readme = (_ROOT / "attacks" / "README.md").read_text(encoding="utf-8")
    assert len(ATTACKS) >= 40 and len(FAMILIES) == 4
    assert not [each.name for each in ATTACKS if f"`{each.name}`" not in readme]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(30))
def test_damaged_inputs_end_well(seed: int) -> None:
    result = one(seed)
    assert not any(result.get(name) for name in FAULTS), result["text"]
