"""Any kind of model as a function from images to logits and classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from mixmix.compress.method import Compressed
from mixmix.errors import InputError, MissingFieldsError
from mixmix.export import Artifact
from mixmix.models.loading import NO_CLASSES, Reference, load
from mixmix.models.model import Model, normalize
from mixmix.models.references import load_spec
from mixmix.models.sources.graphs import describe_graph
from mixmix.models.spec import ModelSpec
from mixmix.runtime.devices import checked_device

if TYPE_CHECKING:
    from mixmix.runtimes.program import ProgramSession
    from mixmix.runtimes.session import OnnxSession

__all__ = ["Evaluated", "Predictor", "check_comparable", "is_file", "open_file", "shared_spec"]

Evaluated = Artifact | Compressed | Reference
# Suffixes of files that run, and of specs.
_RUNNABLE, _SPECS = (".onnx", ".pt2"), (".toml", ".json")
_NEEDED = ("input_shape", "mean", "std", "num_classes")


class Predictor:
    """Maps images (N, C, H, W) in [0, 1] to classes (N,) with any kind of model.

    With ``multi_label``, to whether each class has a probability of 0.5 or more, (N, K).

    ``is_compressed`` says whether mixmix has applied methods to it, as far as is known.

    Args:
        model: as for ``evaluate``.
        spec: as for ``evaluate``.
        device: of a ``Compressed``.

    Raises:
        InputError: if the model cannot be loaded, has no label head, or the device
            cannot be used.
    """

    def __init__(
        self,
        model: Evaluated,
        spec: ModelSpec | Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._logits: Callable[[Tensor], Tensor]
        self.is_compressed = False
        device = checked_device(device)
        if not isinstance(model, Artifact | Compressed) and not is_file(model):
            named = (model, spec) if isinstance(model, nn.Module) and _is_spec(spec) else model
            fields = spec if isinstance(spec, Mapping) else {}
            model = load(named, device=None if isinstance(model, Model) else device, **fields)
        if isinstance(model, Compressed):
            self.is_compressed = bool(model.applied)
            model = Model(model.module, model.spec, device=device)
        if isinstance(model, Model):
            self.spec = model.spec
            self._logits = model
            self._device = model.device
        else:
            assert isinstance(model, Artifact | str | Path)
            session, self.spec = open_file(model, spec)
            self._logits = partial(_run_normalized, session, self.spec)
            self.is_compressed = session.metadata.get("mixmix.settings", "[]") != "[]"
            self._device = torch.device("cpu")
        if self.spec.num_classes < 1:
            raise InputError(f"{self.spec.name} has no label head, so it predicts no classes")

    def __call__(self, images: Tensor) -> Tensor:
        return self.classes(self.logits(images))

    def classes(self, logits: Tensor) -> Tensor:
        """Classes (N,) of logits (N, K), or with ``multi_label`` whether each is predicted."""
        return logits >= 0 if self.spec.multi_label else logits.argmax(1)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) on the CPU, all of them finite."""
        logits = self._logits(images.to(self._device)).cpu()
        expected = (len(images), self.spec.num_classes)
        if tuple(logits.shape) != expected:
            raise InputError(
                f"{self.spec.name} returns logits of shape {tuple(logits.shape)}, expected "
                f"{expected}; check num_classes of the spec"
            )
        if not bool(torch.isfinite(logits).all()):
            raise InputError(
                f"{self.spec.name} returns NaN or infinite logits; its weights or scales are "
                "damaged"
            )
        return logits


def check_comparable(predict: Predictor, compare: Predictor | None, batch_size: int) -> None:
    """Raise an ``InputError`` unless both models have as many classes and the same kind of labels.

    A ``batch_size`` below 1 is an ``InputError``, too.
    """
    if compare is not None and compare.spec.num_classes != predict.spec.num_classes:
        raise InputError(
            f"{predict.spec.name} has {predict.spec.num_classes} classes, the reference "
            f"{compare.spec.name} has {compare.spec.num_classes}; compare models of one label set"
        )
    if compare is not None and compare.spec.multi_label != predict.spec.multi_label:
        one, other = predict.spec, compare.spec
        name = one.name if one.multi_label else other.name
        raise InputError(
            f"of {one.name} and {other.name}, only {name} has multi_label; set it for both, or none"
        )
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")


def is_file(model: object) -> TypeGuard[str | Path]:
    """Whether it is the path of a file that runs, not a reference to a network."""
    if not isinstance(model, str | Path):
        return False
    path = Path(model)
    return path.suffix in _RUNNABLE or (path.is_file() and path.suffix not in _SPECS)


def open_file(
    model: Artifact | str | Path, spec: ModelSpec | Mapping[str, Any] | None = None
) -> tuple[OnnxSession | ProgramSession, ModelSpec]:
    """A file in its runtime, and its spec: what mixmix wrote into it, completed by ``spec``.

    Raises:
        InputError: if it cannot be run, or neither has a required field.
    """
    path = model.path if isinstance(model, Artifact) else Path(model)
    if path.suffix not in _RUNNABLE and path.is_file():
        raise InputError(
            f"cannot evaluate {path}; expected an ONNX file that ends in .onnx, or an exported "
            "program that ends in .pt2"
        )
    # Each is slow to import.
    session: OnnxSession | ProgramSession
    if path.suffix == ".pt2":
        from mixmix.runtimes.program import ProgramSession

        session = ProgramSession(path)
    else:
        from mixmix.runtimes.session import OnnxSession

        session = OnnxSession(path)
    if isinstance(model, Artifact):
        return session, model.spec
    own = ModelSpec.from_metadata(session.metadata, session.name)
    if _is_spec(spec):
        return session, own or spec
    fields = dict(spec) if isinstance(spec, Mapping) else {}
    if own is not None:
        return session, replace(own, **fields) if fields else own
    known = describe_graph(str(path), {}, session.image_shape, session.output_shape)
    content = {"name": path.stem, "source": str(path), **known, **fields}
    missing = [key for key in _NEEDED if key not in content]
    if missing:
        options = ", ".join("--" + key.replace("_", "-") for key in missing)
        raise MissingFieldsError(
            f"{path} was not written by mixmix and does not specify its {', '.join(missing)}; add "
            f"{options}, or in Python spec=dict({', '.join(f'{key}=...' for key in missing)})",
            tuple(missing),
        )
    return session, ModelSpec.from_dict(content)


def shared_spec(
    models: Sequence[Evaluated], spec: ModelSpec | Mapping[str, Any] | None
) -> ModelSpec | Mapping[str, Any] | None:
    """``spec``, with the normalization of one model if the file of another does not say its own.

    Args:
        models: two models that take the same images.
        spec: as for ``evaluate``.
    """
    if _is_spec(spec) or len(models) < 2 or not any(map(is_file, models)):
        return spec
    fields: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {}
    found, silent = [], False
    for model in models:
        try:
            found.append(_stated_spec(model, fields))
        except MissingFieldsError:
            silent = True
    if not (silent and found):
        return spec
    return {"mean": found[0].mean, "std": found[0].std, **fields}


def _stated_spec(model: Evaluated, fields: Mapping[str, Any]) -> ModelSpec:
    """The spec of a model, but for its classes if they are those of a network to load."""
    if isinstance(model, str | Path | ModelSpec) and not is_file(model):
        return load_spec(model, **{**fields, **NO_CLASSES})
    return Predictor(model, fields).spec


def _is_spec(spec: object) -> TypeGuard[ModelSpec]:
    return isinstance(spec, ModelSpec)


def _run_normalized(
    session: OnnxSession | ProgramSession, spec: ModelSpec, images: Tensor
) -> Tensor:
    return session.run(normalize(images, spec))
