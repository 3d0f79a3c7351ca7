"""From a compressed model to a file that runs without mixmix and without PyTorch."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from mixmix._display import percent, summary
from mixmix.compress.method import Compressed
from mixmix.compress.prune.weights.sparsity import check_zeros
from mixmix.data.images import Images, as_images
from mixmix.errors import DataError, ExportError, InputError
from mixmix.export.sparse import read_sparse, sparse_bytes
from mixmix.models.spec import ModelSpec
from mixmix.runtime.storage import write_atomic

__all__ = ["Artifact", "export"]


_SUFFIXES = {"onnx": ".onnx", "pt2e": ".pt2", "sparse": ".safetensors"}
_GOALS = ("size", "speed")


@dataclass(frozen=True, repr=False)
class Artifact:
    """An exported model, checked against the model that it was made from.

    Attributes:
        path: of the file.
        format: ``onnx``, ``pt2e`` or ``sparse``.
        spec: of the original model.
        size_bytes: of the file.
        agreement: percent of the probe images on which its top-1 class is that of the model that
            was exported.
        logit_error: length of the difference of the logits over the length of the centered logits,
            mean over the probe images.
        sha256: of the file's bytes.
    """

    path: Path
    format: str
    spec: ModelSpec
    size_bytes: int
    agreement: float
    logit_error: float
    sha256: str

    def __repr__(self) -> str:
        facts = {
            "path": self.path,
            "format": self.format,
            "model": self.spec.name,
            "size_bytes": self.size_bytes,
            "agreement": percent(self.agreement),
            "logit_error": self.logit_error,
        }
        return summary("Artifact", facts)


def export(
    compressed: Compressed,
    path: str | Path,
    *,
    format: str | None = None,
    optimize_for: str = "size",
    probe: Images | None = None,
    min_agreement: float = 98.0,
    max_logit_error: float = 0.05,
    signed_weights: bool | None = None,
) -> Artifact:
    """Write a compressed model, or a float one, and prove that the file computes the same.

    The file takes normalized images ``images`` (N, C, H, W) and gives ``logits`` (N, K), N free.
    Spec, settings and version are in its metadata. A pruned model is written only if all that was
    pruned is zero, and N:M patterns hold.

    - ``onnx`` (``.onnx``): quantizers become ``QuantizeLinear`` and ``DequantizeLinear`` of uint8,
      weights integers.
    - ``pt2e`` (``.pt2``): an exported program of PyTorch with the same in ``quantized_decomposed``
      operators, for ``torch.compile`` and ExecuTorch. Weights are int8. Without mixmix,
      ``torch.export.load`` reads it after ``import torchao.quantization.pt2e``.
    - ``sparse`` (``.safetensors``): the state dict of a pruned model without its zeros, for
      ``load_sparse``. It is small on disk, and nothing in it runs faster.

    Args:
        compressed: the model; it is not changed.
        path: of the file to write; an older one is replaced only by one that passed the check.
        format: ``onnx``, ``pt2e`` or ``sparse``; None takes the one of the path's suffix.
        optimize_for: what matters where activations or weights have 4 bits or fewer, in ``onnx``.
            ``size`` stores such weights in 4 bits; they run in float kernels, slower than a float
            model. ``speed`` stores them in 8 bits and writes activations in a form that integer
            kernels take.
        probe: at least 32 images on which file and model must agree, as for ``compress``; None
            takes smooth noise.
        min_agreement: least percent of probe images with the same top-1 class, not counting
            changes between classes that the model itself holds for equal up to
            ``max_logit_error`` times the standard deviation of its logits.
        max_logit_error: largest ``Artifact.logit_error``; if the model's own logits move further
            when all that it rounds moves by a hundredth of a step, then 1.5 times that.
        signed_weights: store weights of 8 bits as int8, in ``onnx``. False stores those that can
            overflow the 16-bit sums of u8 x s8 kernels on x86 without VNNI as uint8 with zero
            point 128, which is exact everywhere and half as fast where VNNI is. None does so
            only where they do overflow on the probe images.

    Raises:
        InputError: if the format or what to optimize for is not known, or the probe images do not
            fit the model.
        ExportError: if the model cannot be exported, or the file does not agree with it; nothing
            is written then.

    Examples:
        >>> images, _ = mixmix.load_evaluation_pack().tensors
        >>> compressed = mixmix.compress("bundled:vgg", images[:32], "W8A8")
        >>> artifact = mixmix.export(compressed, "vgg-w8a8.onnx")
        >>> artifact.path.name, artifact.format
        ('vgg-w8a8.onnx', 'onnx')
    """
    path = Path(path)
    format = _format_of(path) if format is None else format
    _check_choices(path, format, optimize_for)
    # These take seconds to import, and most of a run needs none.
    from mixmix.export.verify import check_agreement, probe_images

    check_zeros(compressed)
    given = None if probe is None else as_images(probe, compressed.spec)
    images = probe_images(compressed.spec, given)
    try:
        content, run = _content(
            compressed, images, format, fast=optimize_for == "speed", signed_weights=signed_weights
        )
    except DataError as error:
        raise ExportError(
            f"the exported file of {compressed.spec.name} cannot be loaded: {error}"
        ) from error
    agreement, logit_error = check_agreement(
        run,
        compressed,
        images,
        min_agreement=min_agreement,
        max_logit_error=max_logit_error,
    )
    write_atomic(path, content)
    return Artifact(
        path=path,
        format=format,
        spec=compressed.spec,
        size_bytes=len(content),
        agreement=agreement,
        logit_error=logit_error,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _format_of(path: Path) -> str:
    for format, suffix in _SUFFIXES.items():
        if path.suffix == suffix:
            return format
    raise InputError(
        f"{path} does not say which format to write; let it end in "
        f"{', '.join(_SUFFIXES.values())}, or give the format"
    )


def _check_choices(path: Path, format: str, optimize_for: str) -> None:
    if format not in _SUFFIXES:
        raise InputError(f"cannot export as {format!r}; the formats are: {_listed(_SUFFIXES)}")
    if optimize_for not in _GOALS:
        raise InputError(f"cannot optimize for {optimize_for!r}; the goals are: {_listed(_GOALS)}")
    if format != "onnx" and path.suffix != _SUFFIXES[format]:
        raise InputError(f"a file of format {format!r} must end in {_SUFFIXES[format]}, got {path}")


def _content(
    compressed: Compressed,
    images: Tensor,
    format: str,
    *,
    fast: bool,
    signed_weights: bool | None,
) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    """The bytes of a file, and what runs them."""
    if format == "onnx":
        from mixmix.export.onnx.write import onnx_bytes
        from mixmix.runtimes.session import OnnxSession

        content = onnx_bytes(compressed, images, signed_weights=signed_weights, fast=fast)
        return content, OnnxSession(content).run
    if format == "pt2e":
        from mixmix.export.pt2e import pt2e_bytes
        from mixmix.runtimes.program import ProgramSession

        content = pt2e_bytes(compressed)
        return content, ProgramSession(content).run
    content = sparse_bytes(compressed)
    return content, _loaded(compressed.module, content)


def _loaded(model: nn.Module, content: bytes) -> nn.Module:
    """A copy of the model with the weights of a sparse file."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    model.load_state_dict(read_sparse(content))
    return model


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
