"""Progress: the caller's callback, a line every tenth in logs, and nothing within other calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mixmix.runtime import progress
from mixmix.runtime.progress import showing


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    yield


def run(steps: int) -> None:
    with showing("working") as advance:
        for step in range(steps):
            advance("working", (step + 1) / steps)


@pytest.mark.parametrize(("steps", "lines"), [(10, 10), (1000, 10), (3, 3)])
@pytest.mark.usefixtures("at_once")
def test_logs_get_a_line_each_tenth(
    steps: int, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run(steps)
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == lines and printed[-1].startswith("working: 100% (")


def test_short_calls_write_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    run(100)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("at_once")
def test_calls_within_another_and_with_a_callback_show_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with showing("outer"):
        run(10)
    seen: list[tuple[str, float]] = []
    with showing("mine", lambda what, fraction: seen.append((what, fraction))) as advance:
        advance("step", 0.5)
    assert seen == [("step", 0.5)] and capsys.readouterr().err == ""
    run(1)  # shows again
    assert "100%" in capsys.readouterr().err
