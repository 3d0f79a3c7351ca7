"""Exported programs of PyTorch, read without evaluating anything from the file."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mixmix.errors import DataError, InputError, first_line, raise_if_out_of_memory
from mixmix.runtime.archives import StoredArchive
from mixmix.runtimes.fixed_batches import in_batches_of
from mixmix.runtimes.program_graph import ProgramGraph
from mixmix.runtimes.program_operators import is_quantized
from mixmix.runtimes.program_tensors import register_tensors, tensors_of
from mixmix.runtimes.program_texts import problems_of_pickle, problems_of_texts
from mixmix.runtimes.size_limit import MOST_ELEMENTS

__all__ = ["METADATA_KEYS", "Program", "ProgramSession", "read_program"]

# See mixmix.export.notes.
METADATA_KEYS = ("mixmix.spec", "mixmix.settings", "mixmix.version")
_ENTRIES = re.compile(
    r"models/model\.json|data/(weights|constants)/(model_\1_config\.json|(weight|tensor)_\d+)"
    r"|data/sample_inputs/model\.pt|extra/.*"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id)|version"
)
_BATCH = 2
# Elements of all values, for two images.
_MOST_IN_ALL = 2**34


@dataclass(frozen=True)
class Program:
    """A program in a file.

    Attributes:
        module: takes normalized images (N, C, H, W). ``meta["val"]`` of its nodes are fake tensors.
        inputs: sizes of each input; None for sizes that vary.
        outputs: sizes of each output.
        changes: whether running it changes buffers or inputs, as in training.
        metadata: what ``mixmix.export`` wrote into the file.
    """

    module: fx.GraphModule
    inputs: list[tuple[int | None, ...]]
    outputs: list[tuple[int | None, ...]]
    changes: bool
    metadata: dict[str, str]


def read_program(path: Path, *, quantized: bool = False) -> Program:
    """Read a graph of PyTorch's operations on tensors; see ``ProgramGraph``.

    Args:
        path: of a file that ``torch.export.save`` wrote.
        quantized: allow ``quantized_decomposed`` operations as well.

    Raises:
        InputError: if there is no such file.
        DataError: if it contains anything else.
    """
    if not path.is_file():
        raise InputError(f"no exported program at {path}; pass the path of the export")
    try:
        archive = StoredArchive(path)
        content = _document(archive)
    except Exception as error:  # of damaged files, and of documents nested too deeply
        raise_if_out_of_memory(error)
        raise DataError(
            f"{path} is not a program that torch.export.save of PyTorch 2.8 or later wrote: "
            f"{first_line(error)}"
        ) from error
    try:
        for problem in _problems(archive, content):
            raise DataError(problem)
        graph = ProgramGraph(content)
        targets = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
        if not quantized and any(is_quantized(f"torch.ops.{each}") for each in targets):
            raise DataError("quantized operations")
        root = nn.Module()
        register_tensors(root, tensors_of(archive))
        module = fx.GraphModule(root, graph.graph)
    except Exception as error:  # missing fields and wrong types raise many kinds
        raise_if_out_of_memory(error)
        reason = str(error) if isinstance(error, DataError) else "fields of a wrong type"
        raise DataError(
            f"{path} contains {reason}; only graphs of PyTorch's own operations and plain "
            "tensors are loaded: export the float network itself with torch.export.save"
        ) from error
    notes = {
        key: archive.read(f"extra/{key}")
        for key in METADATA_KEYS
        if f"extra/{key}" in archive.names
    }
    metadata = {key: text.decode(errors="replace") for key, text in notes.items() if text}
    if len(graph.inputs) == 1:
        _Sizes(module, path).check(graph.inputs[0])
    return Program(module, graph.inputs, graph.outputs, graph.changes, metadata)


def _document(archive: StoredArchive) -> Any:
    if "models/model.json" not in archive.names:
        raise DataError("it has no entry models/model.json")
    return json.loads(archive.read("models/model.json"))


def _problems(archive: StoredArchive, content: Any) -> Iterator[str]:
    for name in archive.names:
        if not _ENTRIES.fullmatch(name):
            yield f"{name[:80]}, which is neither graph nor tensor"
    if archive.read("byteorder").strip() not in (b"little", b""):
        yield "tensors in another byte order"
    inputs = archive.read("data/sample_inputs/model.pt")
    if zipfile.is_zipfile(io.BytesIO(inputs)):
        pickled = StoredArchive(io.BytesIO(inputs)).read("data.pkl")
        yield from problems_of_pickle("data/sample_inputs", pickled)
    yield from problems_of_texts(content)


class _Sizes(fx.Interpreter):
    """Runs a program on fake tensors, to record its sizes before anything is allocated."""

    def __init__(self, module: fx.GraphModule, path: Path) -> None:
        super().__init__(module)
        self.extra_traceback = False  # in messages of errors
        self._path, self._total = path, 0

    def check(self, sizes: tuple[int | None, ...]) -> None:
        """Run it on two images, or on as many as it takes.

        Raises:
            DataError: if it cannot run, or values are too large.
        """
        shape = [
            (224 if axis > 1 else 3 if axis else _BATCH) if size is None else size
            for axis, size in enumerate(sizes)
        ]
        try:
            with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
                self.run(torch.empty(shape))
        except DataError:
            raise
        except Exception as error:
            raise_if_out_of_memory(error)
            raise DataError(
                f"{self._path} cannot run on images of {tuple(shape)}: {first_line(error)}"
            ) from error

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                self._total += each.numel()
                if each.numel() > MOST_ELEMENTS or self._total > _MOST_IN_ALL:
                    raise DataError(
                        f"{self._path} has values of {each.numel():,} numbers, which is more "
                        "than networks for images need; it is damaged"
                    )
        n.meta["val"] = result
        return result


class ProgramSession:
    """An exported program of one batch of images, on the CPU.

    Args:
        program: path of a ``.pt2`` file, or the bytes of one that mixmix has just written, which
            PyTorch's own loader reads.

    Raises:
        InputError: if there is no such file.
        DataError: if it cannot be loaded, or if it contains more than a program.
    """

    def __init__(self, program: str | Path | bytes) -> None:
        self._module: nn.Module
        self.metadata: dict[str, str] = {}
        # Of images and logits; axes that vary are None.
        self.image_shape: tuple[int | None, ...] = ()
        self.output_shape: tuple[int | None, ...] = ()
        if isinstance(program, bytes):
            self.name = "the exported program"
            self._module = torch.export.load(io.BytesIO(program)).module()
        else:
            self.name = str(program)
            found = read_program(Path(program), quantized=True)
            self._module, self.metadata = found.module, found.metadata
            self.image_shape, self.output_shape = found.inputs[0], found.outputs[0]

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        """Logits (N, K) of normalized images (N, C, H, W) float32.

        Raises:
            InputError: if the images do not fit the program.
        """
        try:
            size = self.image_shape[0] if self.image_shape else None
            return in_batches_of(size, self._module, images.detach().cpu())
        except Exception as error:
            raise_if_out_of_memory(error)
            raise InputError(
                f"{self.name} cannot run on images of {tuple(images.shape)}: {first_line(error)}"
            ) from error
