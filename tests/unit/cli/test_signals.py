"""A signal ends a command in one line, wherever it arrives."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

import mixmix.cli.app
from mixmix.cli import main


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")]
)
def test_also_where_it_is_made_another_error(
    number: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def imports(*, standalone_mode: bool) -> None:
        try:
            signal.raise_signal(number)
        except BaseException as error:  # as a package does while it is imported
            raise RecursionError("maximum recursion depth exceeded") from error

    def app() -> Callable[[], None]:
        return type("App", (), {"main": staticmethod(imports)})

    monkeypatch.setattr(main, "_RECEIVED", [])
    monkeypatch.setattr(mixmix.cli.app, "app", app)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == f"{line}; repeat the command to continue\n"
