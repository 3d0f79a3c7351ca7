"""Standard streams in any state."""

from __future__ import annotations

import io
import sys

import pytest

from mixmix.cli.streams import open_closed_streams


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_in_any_script_are_printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding))
    open_closed_streams()
    print("名前 \udcff", flush=True)
    assert content.getvalue() in (b"\\u540d\\u524d \\udcff\n", "名前 \\udcff\n".encode())
