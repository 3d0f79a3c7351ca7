"""What an attack is: it writes a hostile file, and names the commands that read it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attacks.command_line import Ending, call

Commands = list[list[str]]
Write = Callable[[Path, str], Commands]


@dataclass(frozen=True)
class Attack:
    """An attack.

    Attributes:
        name: of the function that writes it.
        target: what reads the file.
        text: what it tries.
        write: writes its files in a folder; gets Python code that would make a marker there.
        loads: whether the file is harmless to load, so that success is right, too.
    """

    name: str
    target: str
    text: str
    write: Write
    loads: bool


@dataclass(frozen=True)
class Verdict:
    """How an attack ended; ``executed`` says whether its code ran."""

    attack: Attack
    executed: bool
    endings: tuple[Ending, ...]

    @property
    def is_good(self) -> bool:
        """Nothing ran, and every command ended well."""
        expected = (0, 2) if self.attack.loads else (2,)
        ended = all(each.is_good and each.code in expected for each in self.endings)
        return ended and not self.executed

    @property
    def word(self) -> str:
        """For the table."""
        if self.executed:
            return "**executed**"
        if not self.is_good:
            return "**ends badly**"
        return "refused" if all(each.code for each in self.endings) else "loads, nothing runs"


ATTACKS: list[Attack] = []


def attack(target: str, *, loads: bool = False) -> Callable[[Write], Write]:
    """Register a function as an attack; the first line of its docstring says what it tries."""

    def register(write: Write) -> Write:
        text = (write.__doc__ or "").strip().splitlines()[0].rstrip(".")
        ATTACKS.append(Attack(write.__name__, target, text, write, loads))
        return write

    return register


def execute(each: Attack) -> Verdict:
    """Write the files of an attack to a temporary folder, and run its commands there."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        marker = folder / "MARKER"
        code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
        commands = each.write(folder, code)
        endings = tuple(call(command, folder) for command in commands)
        return Verdict(each, marker.exists() or Path("MARKER").exists(), endings)
