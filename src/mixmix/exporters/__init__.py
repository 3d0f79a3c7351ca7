"""From a compressed model to a file that runs without mixmix and without PyTorch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mixmix.compression.method import Compressed
from mixmix.errors import InputError
from mixmix.storage import write_atomic
from mixmix.zoo.spec import ModelSpec

__all__ = ["Artifact", "export"]


@dataclass(frozen=True)
class Artifact:
    """An exported model, checked against the model that it was made from.

    Attributes:
        path: of the file.
        format: ``onnx``.
        spec: of the original model.
        size_bytes: of the file.
        agreement: percent of the probe images on which its top-1 class is that of the model that
            was exported.
        logit_error: length of the difference of the logits over the length of the centred logits,
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


def export(
    compressed: Compressed,
    path: str | Path,
    *,
    format: str = "onnx",
    probe: Tensor | None = None,
    min_agreement: float = 98.0,
    max_logit_error: float = 0.05,
    signed_weights: bool = False,
) -> Artifact:
    """Write a compressed model, or a float one, and prove that the file computes the same.

    The file takes normalised images ``images`` (N, C, H, W) and gives ``logits`` (N, K), N free.
    Quantizers become ``QuantizeLinear`` and ``DequantizeLinear`` of uint8, behind a ``Clip`` where
    they have fewer than 8 bits; weights become integers of 8 bits, or of 4 where that is enough.
    Spec, settings and version are in its metadata.

    Args:
        compressed: the model; it is not changed.
        path: of the file to write; an older one is replaced only by one that passed the check.
        format: ``onnx`` is the only one.
        probe: at least 32 images (N, C, H, W) in [0, 1] on which file and model must agree, such
            as synthetic ones; None takes smooth noise.
        min_agreement: least percent of probe images with the same top-1 class, not counting
            changes between classes that the model itself holds for equal up to
            ``max_logit_error`` times the standard deviation of its logits.
        max_logit_error: largest ``Artifact.logit_error``.
        signed_weights: store weights of 8 bits as int8 in any case. By default those that can
            overflow the 16-bit sums of u8 x s8 kernels on x86 without VNNI are stored as uint8
            with zero point 128, which is exact everywhere and slower where VNNI is.

    Raises:
        InputError: if the format is not known, or the probe images do not fit the model.
        ExportError: if the model cannot be exported, or the file does not agree with it; nothing
            is written then.
    """
    if format != "onnx":
        raise InputError(f"cannot export as {format!r}; the formats are: 'onnx'")
    # onnx, onnxscript and onnxruntime take seconds to import, and most of a run needs none.
    from mixmix.exporters.onnx import check_agreement, onnx_bytes

    path = Path(path)
    content = onnx_bytes(compressed, signed_weights=signed_weights)
    agreement, logit_error = check_agreement(
        content,
        compressed,
        probe,
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
