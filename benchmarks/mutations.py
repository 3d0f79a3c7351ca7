"""Which faults would the tests miss?

    python benchmarks/mutations.py --out benchmarks/records/DATE_mutations --jobs 2
    python benchmarks/mutations.py --only train/mean-without-ramp

A mutation is a small fault in the source: another sign, a bound off by one, a missing copy.
``mutation_parts/*.toml`` lists them: a file below ``src/mixmix``, a text that occurs once in it,
its replacement, and the tests that should fail. Each mutation is applied alone to a copy of the
tree. It is *killed* if one of its tests fails, and *survives* if all pass. A text that moved to
another file is found there. A missing text ("text not found") and tests that cannot run are
reported; correct them in the list.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PARTS = Path(__file__).parent / "mutation_parts"
QUESTION = "Which faults would the tests miss?"
COPIED = ("src", "tests", "benchmarks", "docs", "pyproject.toml", "README.md")
SURVIVED, KILLED, TIMED_OUT = "survived", "killed", "timed out"
STALE, NOT_RUN = "text not found", "tests cannot be run"
# Imported once, for all mutations: most of the time of a test would go by with it.
PRELOADED = (
    *("torch", "torch.export", "torch.fx", "torch.nn.utils.fusion", "numba", "scipy.stats", "onnx"),
    *(
        "onnxscript",
        "onnxruntime",
        "torch_pruning",
        "PIL.Image",
        "rich_click",
        "jinja2",
        "matplotlib",
    ),
    *("hypothesis", "pytest"),
)
# Exit codes of pytest.
PASSED, FAILED, INTERRUPTED = 0, 1, 2


@dataclass(frozen=True)
class Mutation:
    """A fault.

    Attributes:
        package: the part of the list that it is in.
        name: of the fault.
        file: below ``src/mixmix``.
        text: that the file holds once.
        new: what takes its place.
        tests: arguments of pytest.
    """

    package: str
    name: str
    file: str
    text: str
    new: str
    tests: str

    @property
    def full_name(self) -> str:
        return f"{self.package}/{self.name}"


@dataclass(frozen=True)
class Verdict:
    outcome: str
    killed_by: str = ""
    file: str = ""
    seconds: float = 0.0


def mutations() -> list[Mutation]:
    found = []
    for path in sorted(PARTS.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        found += [Mutation(path.stem, name, **fields) for name, fields in content.items()]
    return found


class Tree:
    """A copy of the repository in which one mutation at a time is made.

    Args:
        folder: that does not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                # Times stay, so that what numba compiled is not compiled again.
                shutil.copytree(source, folder / name)
            elif source.exists():
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, folder / name)
        self.package = folder / "src" / "mixmix"

    def judge(self, mutation: Mutation, *, timeout: float) -> Verdict:
        """Make a mutation, run its tests, and take it back."""
        path = self._find(mutation)
        if path is None:
            return Verdict(STALE)
        before, times = path.read_text(encoding="utf-8"), path.stat()
        name = str(path.relative_to(self.package))
        started = time.monotonic()
        try:
            changed = before.replace(mutation.text, mutation.new)
            path.write_text(changed, encoding="utf-8")
            code, output = self.run(self.existing(mutation), timeout=timeout)
        finally:
            path.write_text(before, encoding="utf-8")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        seconds = round(time.monotonic() - started, 1)
        if code is None:
            return Verdict(TIMED_OUT, "", name, seconds)
        if code == PASSED:
            return Verdict(SURVIVED, "", name, seconds)
        failure = first_failure(output)
        if code in (FAILED, INTERRUPTED) and failure:
            return Verdict(KILLED, failure, name, seconds)
        return Verdict(NOT_RUN, (output.strip().splitlines() or [""])[-1], name, seconds)

    def existing(self, mutation: Mutation) -> list[str]:
        """The tests of a mutation, without files that are gone if others are there."""
        arguments = shlex.split(mutation.tests)
        gone = {
            argument
            for argument in arguments
            if argument.startswith("tests/") and not (self.folder / argument).exists()
        }
        left = [argument for argument in arguments if argument not in gone]
        return left if any(argument.startswith("tests/") for argument in left) else arguments

    def _find(self, mutation: Mutation) -> Path | None:
        """The file that holds the text once: that of the list, or the only other one."""
        listed = self.package / mutation.file
        if listed.exists() and listed.read_text(encoding="utf-8").count(mutation.text) == 1:
            return listed
        counts = {
            path: path.read_text(encoding="utf-8").count(mutation.text)
            for path in self.package.rglob("*.py")
        }
        holding = [path for path, count in counts.items() if count]
        return holding[0] if len(holding) == 1 and counts[holding[0]] == 1 else None

    def run(self, arguments: Sequence[str], *, timeout: float) -> tuple[int | None, str]:
        """Exit code and output of pytest in this tree; no code where it took too long."""
        output = self.folder / "output.txt"
        context = multiprocessing.get_context("forkserver")
        process = context.Process(target=run_tests, args=(self.folder, output, list(arguments)))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            return None, ""
        return process.exitcode, output.read_text(encoding="utf-8", errors="replace")


def run_tests(folder: Path, output: Path, arguments: Sequence[str]) -> None:
    """Run pytest in a tree, in a process that has imported what takes long and nothing of ours."""
    assert not any(name.partition(".")[0] == "mixmix" for name in sys.modules)
    with open(output, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    sys.path[:0] = [str(folder / "src")]
    os.environ["PYTHONPATH"] = str(folder / "src")
    sys.dont_write_bytecode = True
    import pytest

    options = ("-x", "-q", "--tb=no", "-p", "no:cacheprovider", "--assert=plain", "-rfE")
    code = int(pytest.main([*options, *arguments]))
    sys.stdout.flush()
    found = sys.modules.get("mixmix")
    if found is not None and not Path(str(found.__file__)).is_relative_to(folder):
        print(f"the tests saw {found.__file__} instead of the copy in {folder}", flush=True)
        code = pytest.ExitCode.INTERNAL_ERROR
    os._exit(code)


def first_failure(output: str) -> str:
    """Name of the first test that failed, or of the file that cannot be imported; empty if none."""
    match = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return match[1].removeprefix("tests/") if match else ""


def check_tree(tree: Tree, chosen: Sequence[Mutation], *, timeout: float) -> None:
    """Refuse to judge by tests that fail without any mutation."""
    # Arguments that choose within a file are for that file alone, so that files are run whole.
    named = (part for m in chosen for part in tree.existing(m) if part.startswith("tests/"))
    known = [name for name in dict.fromkeys(named) if (tree.folder / name).exists()]
    code, output = tree.run(known, timeout=timeout)
    if code != PASSED:
        failed = "timed out" if code is None else first_failure(output) or output[-500:]
        sys.exit(f"the tests fail without any mutation ({failed}); mend them first")


def judge_all(
    trees: Sequence[Tree], chosen: Sequence[Mutation], *, timeout: float
) -> Iterator[tuple[Mutation, Verdict]]:
    """In the order of the list, as many at a time as there are trees."""
    free: Queue[Tree] = Queue()
    for tree in trees:
        free.put(tree)

    def judge(mutation: Mutation) -> Verdict:
        tree = free.get()
        try:
            return tree.judge(mutation, timeout=timeout)
        finally:
            free.put(tree)

    with ThreadPoolExecutor(len(trees)) as pool:
        yield from zip(chosen, pool.map(judge, chosen), strict=True)


def row_of(mutation: Mutation, verdict: Verdict) -> dict[str, Any]:
    return {
        "package": mutation.package,
        "file": verdict.file or mutation.file,
        "mutation": mutation.name,
        "outcome": verdict.outcome,
        "killed_by": verdict.killed_by,
        "seconds": verdict.seconds,
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="folder of the record to write")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="PACKAGE or PACKAGE/MUTATION"
    )
    parser.add_argument("--jobs", type=int, default=1, help="mutations in parallel")
    parser.add_argument("--timeout", type=float, default=300, help="seconds per mutation")
    parser.add_argument(
        "--unchecked", action="store_true", help="do not run the tests without mutations first"
    )
    parser.add_argument("--list", action="store_true", help="print the mutations and stop")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    chosen = [
        m
        for m in mutations()
        if not arguments.only or {m.package, m.name, m.full_name} & set(arguments.only)
    ]
    if not chosen:
        sys.exit(f"no mutation is called {', '.join(arguments.only)}; --list prints them")
    if arguments.list:
        print("\n".join(f"{m.full_name}  {m.file}" for m in chosen))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(PRELOADED))
    rows = []
    record = None
    if arguments.out is not None:
        # Not above: processes of tests import this file, and nothing of mixmix.
        from harness.record import Record

        record = Record(arguments.out / "result.json", QUESTION, ("package", "mutation"))
    with tempfile.TemporaryDirectory(prefix="mixmix-mutations-") as folder:
        trees = [Tree(Path(folder, str(number))) for number in range(max(1, arguments.jobs))]
        if not arguments.unchecked:
            check_tree(trees[0], chosen, timeout=20 * arguments.timeout)
        for mutation, verdict in judge_all(trees, chosen, timeout=arguments.timeout):
            rows.append(row_of(mutation, verdict))
            if record is not None:
                record.add(rows[-1])
            by = f" by {verdict.killed_by}" if verdict.killed_by else ""
            took = f"{verdict.seconds:.0f} s"
            print(f"{mutation.full_name}: {verdict.outcome}{by} ({took})", flush=True)
    counts = Counter(row["outcome"] for row in rows)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    print(f"{len(rows)} mutations: {told}")
    sys.exit(bool(set(counts) - {KILLED, TIMED_OUT}))


if __name__ == "__main__":
    main()
