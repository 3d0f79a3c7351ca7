"""What all commands share: options, progress, output for people and for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from mixmix.errors import InputError, RankError

if TYPE_CHECKING:
    from mixmix.data.image_set import ImageSet

__all__ = [
    "MODELS",
    "Console",
    "DeviceOption",
    "JsonOption",
    "ModelArgument",
    "SeedOption",
    "ThreadsOption",
    "load_images",
    "prepare",
    "progress_bar",
    "report",
]

SeedOption = Annotated[int, typer.Option(help="Seed of every random draw.", min=0)]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")]
ThreadsOption = Annotated[
    int | None, typer.Option(help="CPU threads of this machine (default: all cores).", min=1)
]
MODELS = (
    "bundled:NAME, timm:NAME, torchvision:NAME, hf:REPOSITORY, imagenet:NAME (@FILE behind it for "
    "weights of your own), an .onnx or .pt2 file, or a model spec (.toml or .json)"
)
ModelArgument = Annotated[str, typer.Option("--model", "-m", help=f"{MODELS}.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]


def prepare(device: str, threads: int | None, *, together: bool = False) -> None:
    """Check the device and set up the process for long numerical work.

    Args:
        device: where the command works.
        threads: of torch, or None for its default.
        together: whether several processes of ``torchrun`` can share this command.

    Raises:
        InputError: if the device is not there, or the command is for one process and this is the
            main one of several.
        RankError: if it is another one of them.
    """
    import torch

    from mixmix.runtime import distributed
    from mixmix.runtime.allocator import keep_freed_memory

    if not together and distributed.world_size() > 1:
        message = (
            f"this command works in one process, torchrun started {distributed.world_size()}; "
            "start it without torchrun"
        )
        raise InputError(message) if distributed.is_main() else RankError(message)
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {device!r} cannot be used: {reason}; use --device cpu") from error


def load_images(*folders: Path) -> ImageSet:
    """The images of all folders; shards that cannot be read are left out with a warning."""
    from mixmix.data.image_set import ImageSet

    loaded = [ImageSet.load(folder) for folder in folders]
    images = loaded[0] if len(loaded) == 1 else ImageSet.join(loaded)
    for reason in images.refused.values():
        print(f"warning: left out: {reason}", file=sys.stderr)
    return images


@contextmanager
def progress_bar(title: str, *, shown: bool = True) -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error, advanced by (what is being done, share done in [0, 1])."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        task = progress.add_task(title, total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)


def report(
    content: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    *,
    title: str = "",
) -> None:
    """Print ``content`` as JSON on standard output, or ``rows`` as a table."""
    if as_json:
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    console = Console()
    if title:
        console.print(title, highlight=False)
    if not rows:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        # Names that end in an ellipsis could not be copied.
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("–" if value is None else _text(value) for value in row.values()))
    console.print(table)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
