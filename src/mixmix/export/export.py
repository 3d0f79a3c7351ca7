"""Export of a compressed model to a file, checked against the model."""

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
from mixmix.export.verify import check_agreement, check_steps, probe_images
from mixmix.models.loading import Reference, load
from mixmix.models.model import resize
from mixmix.models.spec import ModelSpec
from mixmix.runtime.storage import write_atomic
from mixmix.runtimes.file_ends import logits_of

__all__ = ["Artifact", "export"]

_SUFFIXES = {"onnx": ".onnx", "pt2e": ".pt2", "sparse": ".safetensors"}
_GOALS = ("size", "speed")
_LAYOUTS = ("NHWC", "NCHW")


@dataclass(frozen=True, repr=False)
class Artifact:
    """An exported file that agrees with its model.

    Attributes:
        path: of the file.
        format: ``onnx``, ``pt2e`` or ``sparse``.
        spec: of the model.
        size_bytes: of the file.
        agreement: percentage of probe images with the same top-1 class as the model.
        logit_error: norm of the difference of the logits, mean over the probe images, over their
            spread in the model: how much they differ between images (root mean square).
        sha256: of the file.
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
    compressed: Compressed | Reference,
    path: str | Path,
    *,
    format: str | None = None,
    optimize_for: str = "size",
    probe: Images | None = None,
    min_agreement: float = 98.0,
    max_logit_error: float = 1e-3,
    with_preprocessing: bool | str = False,
    with_softmax: bool = False,
) -> Artifact:
    """Export a compressed or float model to a file, and check that both compute the same.

    Each quantizer of the file must return the level nearest to its input in the model, when all
    earlier values are those of the file. Then the outputs are compared, as the runtime's fastest
    kernels compute them.

    The file takes normalized images ``images`` (N, C, H, W) and returns ``logits`` (N, K), for any
    N. Its metadata contain spec, settings and version; ``docs/deploy.md`` lists them.

    - ``onnx`` (``.onnx``): weights are integers, quantizers are ``QuantizeLinear`` and
      ``DequantizeLinear`` nodes of uint8. 8-bit weights are int8, except in layers that would
      saturate the 16-bit sums of u8 x s8 kernels on x86 without VNNI: uint8 with zero point 128.
    - ``pt2e`` (``.pt2``): an exported program of PyTorch with int8 weights and
      ``quantized_decomposed`` operators, for ``torch.compile`` and ExecuTorch. Without mixmix,
      ``torch.export.load`` reads it after ``import torchao.quantization.pt2e``.
    - ``sparse`` (``.safetensors``): the state dict of a pruned model without its zeros, for
      ``load_sparse``; smaller, but not faster.

    Args:
        compressed: the model, which is not changed; or anything that ``load`` takes, in floats.
        path: of the file to write; an existing file is replaced only after the check.
        format: ``onnx``, ``pt2e`` or ``sparse``; None infers it from the suffix of the path.
        optimize_for: for activations or weights of 4 bits or fewer, in ``onnx``. ``size`` stores
            such weights in 4 bits, or in 2 if they have 2 (opset 25); they run in float kernels,
            slower than a float model. ``speed`` stores them in 8 bits and writes activations so
            that integer kernels are used.
        probe: at least 32 images on which file and model are compared, as for ``compress``; None
            uses smooth noise.
        min_agreement: minimum percentage of probe images with the same top-1 class, not counting
            changes between classes whose logits differ in the model by less than the error allowed;
            ignored if the model has no classes.
        max_logit_error: maximum ``Artifact.logit_error``. If noise of a hundredth of a step before
            every rounding changes the model's own logits more, 1.5 times that error is allowed.
        with_preprocessing: whether an ``onnx`` file takes bytes, of which it normalizes the images
            itself: ``NHWC`` (or True), as image libraries have them, or ``NCHW``.
        with_softmax: whether an ``onnx`` file returns ``probabilities`` instead of logits; with
            ``multi_label``, those of each class.

    Raises:
        InputError: if ``format`` or ``optimize_for`` is unknown, the probe images do not fit the
            model, or preprocessing or softmax do not fit the format or the model.
        ExportError: if the model cannot be exported, a pruned weight is not zero, or the outputs do
            not agree; nothing is written.

    Example:
        >>> import mixmix
        >>> artifact = mixmix.export("bundled:vgg", "vgg.onnx")  # or compress(model, ...)
        >>> artifact.format, artifact.agreement
        ('onnx', 100.0)
    """
    if not isinstance(path, str | Path):
        raise InputError(
            f"path must be the path of a file, got {type(path).__name__}; the model comes first, "
            "then the path"
        )
    path = Path(path)
    format = _format_of(path) if format is None else format
    _check_choices(path, format, optimize_for)
    if not isinstance(compressed, Compressed):
        model = load(compressed)
        compressed = Compressed(model.module, model.spec)
    check_zeros(compressed)
    given = None if probe is None else as_images(probe, compressed.spec)
    images = probe_images(compressed.spec, given)
    layout, probabilities = _ends(compressed.spec, format, with_preprocessing, with_softmax)
    if layout:  # bytes of the input's size
        images = (resize(images, compressed.spec.input_shape[1:]) * 255).round() / 255
    try:
        content, run = _content(compressed, images, format, fast=optimize_for == "speed")
        check_steps(content, format, compressed, images, max_logit_error=max_logit_error)
        if layout or probabilities:
            content, run = _with_ends(content, compressed.spec, layout, probabilities)
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
        outputs=lambda logits: logits_of(logits, probabilities),
    )
    write_atomic(path, content)
    digest = hashlib.sha256(content).hexdigest()
    return Artifact(path, format, compressed.spec, len(content), agreement, logit_error, digest)


def _format_of(path: Path) -> str:
    for format, suffix in _SUFFIXES.items():
        if path.suffix == suffix:
            return format
    raise InputError(
        f"cannot infer the format from {path}; use a suffix of {', '.join(_SUFFIXES.values())}, or "
        "pass format"
    )


def _check_choices(path: Path, format: str, optimize_for: str) -> None:
    if format not in _SUFFIXES:
        raise InputError(f"cannot export as {format!r}; the formats are: {_listed(_SUFFIXES)}")
    if optimize_for not in _GOALS:
        raise InputError(f"cannot optimize for {optimize_for!r}; the goals are: {_listed(_GOALS)}")
    if format != "onnx" and path.suffix != _SUFFIXES[format]:
        raise InputError(f"a file of format {format!r} must end in {_SUFFIXES[format]}, got {path}")


def _content(
    compressed: Compressed, images: Tensor, format: str, *, fast: bool
) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    """The bytes of a file, and a function that runs them."""
    # These take seconds to import.
    if format == "onnx":
        from mixmix.export.onnx.write import onnx_bytes
        from mixmix.runtimes.session import OnnxSession

        content = onnx_bytes(compressed, images, fast=fast)
        return content, OnnxSession(content).run
    if format == "pt2e":
        from mixmix.export.pt2e import pt2e_bytes
        from mixmix.runtimes.program import ProgramSession

        content = pt2e_bytes(compressed)
        return content, ProgramSession(content).run
    content = sparse_bytes(compressed)
    return content, _loaded(compressed.module, content)


def _ends(
    spec: ModelSpec, format: str, preprocessing: bool | str, softmax: bool
) -> tuple[str, str]:
    """The layout of bytes and the kind of probabilities of a file; empty without."""
    layout = preprocessing if isinstance(preprocessing, str) else "NHWC" * preprocessing
    if layout not in ("", *_LAYOUTS):
        raise InputError(f"with_preprocessing must be {_listed(_LAYOUTS)}, got {layout!r}")
    if (layout or softmax) and format != "onnx":
        raise InputError(
            f"preprocessing and softmax are written into .onnx files, not into {format}; leave "
            "them out, or write an .onnx file"
        )
    if softmax and not spec.num_classes:
        raise InputError(f"{spec.name} has no classes, so that it has no softmax; leave it out")
    return layout, ("sigmoid" if spec.multi_label else "softmax") * softmax


def _with_ends(
    content: bytes, spec: ModelSpec, layout: str, probabilities: str
) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    from mixmix.export.onnx.ends import with_ends
    from mixmix.runtimes.session import OnnxSession

    content = with_ends(content, spec, layout=layout, probabilities=probabilities)
    return content, OnnxSession(content).run


def _loaded(model: nn.Module, content: bytes) -> nn.Module:
    """A copy of the model with the weights of a sparse file."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    model.load_state_dict(read_sparse(content))
    return model


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
