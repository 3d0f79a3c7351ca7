"""Runs all attacks and writes their verdicts to README.md.

    python attacks/run.py [--check] [--only NAME]

With ``--check``, README.md is not written. The exit code is 1 if an attack succeeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(_HERE.parent))

from attacks import on_onnx, on_programs, on_texts, on_weights  # noqa: E402
from attacks.attack import ATTACKS, Verdict, execute  # noqa: E402

__all__ = ["FAMILIES", "table"]

FAMILIES = (on_onnx, on_programs, on_weights, on_texts)
_BEGIN, _END = "<!-- verdicts: begin -->", "<!-- verdicts: end -->"


def table(verdicts: list[Verdict]) -> str:
    """The verdicts in Markdown."""
    lines = ["| file | attack | what it tries | verdict |", "|---|---|---|---|"]
    for each in verdicts:
        about = each.attack
        lines.append(f"| {about.target} | `{about.name}` | {about.text} | {each.word} |")
    return "\n".join(lines)


def main() -> int:
    """Run the attacks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    verdicts = []
    for each in ATTACKS:
        if options.only in each.name:
            verdicts.append(execute(each))
            verdict = verdicts[-1]
            print(f"{each.target:12} {each.name:32} {verdict.word}", flush=True)
            for ending in verdict.endings:
                if not verdict.is_good or options.only:
                    print(f"    exit {ending.code}: {ending.traceback or ending.line}")
    if not options.check and not options.only:
        readme = _HERE / "README.md"
        head, _, rest = readme.read_text(encoding="utf-8").partition(_BEGIN)
        tail = rest.partition(_END)[2]
        text = f"{head}{_BEGIN}\n{table(verdicts)}\n{_END}{tail}"
        readme.write_text(text, encoding="utf-8")
    return 0 if all(each.is_good for each in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
