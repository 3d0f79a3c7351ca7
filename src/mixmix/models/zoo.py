"""A zoo of pretrained networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from mixmix._display import html_table, summary
from mixmix.errors import InputError
from mixmix.models.classes import LabelSpace
from mixmix.models.loading import Reference, load
from mixmix.models.member import Member, members_of
from mixmix.models.model import Model
from mixmix.models.references import load_spec
from mixmix.models.spec import ModelSpec

__all__ = ["Zoo"]


class Zoo(Sequence[Model]):
    """Frozen pretrained networks with the same number of channels.

    The first network with a label head defines the classes of the zoo. Classes of networks that
    have them in another order, or have additional ones, are matched by name or by
    ``ModelSpec.label_map``; networks with other classes contribute only their BatchNorm statistics
    (see ``members``). Images are resized and normalized for each network. Zoos are equal if they
    have the same networks, in the same order, with the same weights.

    >>> import mixmix
    >>> zoo = mixmix.Zoo.load(["bundled:resnet", "bundled:vgg"])
    >>> zoo.names, zoo.num_classes
    (('resnet', 'vgg'), 10)

    Args:
        models: at least one.
        weights: relative probabilities, > 0, of being drawn at a step; None for equal ones.

    Raises:
        InputError: if there is no network, numbers of channels differ, or a network has neither
            labels nor BatchNorm statistics to contribute.
    """

    def __init__(self, models: Iterable[Model], *, weights: Sequence[float] | None = None) -> None:
        self._models = tuple(models)
        if not self._models:
            raise InputError("a zoo needs at least one network")
        for model in self._models:
            if not isinstance(model, Model):
                raise InputError(
                    f"Zoo takes Models, got an object of type {type(model).__name__}; load "
                    "references and modules with Zoo.load([...])"
                )
        names = [model.spec.name for model in self._models]
        if len(set(names)) < len(names):
            raise InputError(f"networks of a zoo need different names, got {', '.join(names)}")
        channels = {m.spec.name: m.spec.input_shape[0] for m in self._models}
        if len(set(channels.values())) > 1:
            listed = ", ".join(f"{name}: {count}" for name, count in channels.items())
            raise InputError(
                f"the networks of a zoo must agree on their channels, got {listed}; leave out "
                "those that differ"
            )
        if weights is not None and (
            len(weights) != len(names)
            or not all(isinstance(w, int | float) and 0 < w < math.inf for w in weights)
        ):
            raise InputError(
                f"weights must be one finite number > 0 for each of the {len(names)} networks, got "
                f"{list(weights)}"
            )
        kinds = {m.spec.name: m.spec.multi_label for m in self._models if m.has_label_head}
        if len(set(kinds.values())) > 1:
            several = ", ".join(name for name, is_multi in kinds.items() if is_multi)
            raise InputError(
                f"only {several} of {', '.join(kinds)} have multi_label; it must be the same for "
                "all networks of a zoo"
            )
        self.weights = None if weights is None else tuple(weights)
        self.members = members_of(self._models, self.weights)

    @classmethod
    def load(
        cls,
        references: Zoo | Reference | Iterable[Reference],
        *,
        weights: Sequence[float] | None = None,
        device: str | torch.device | None = None,
    ) -> Zoo:
        """Load a zoo.

        Args:
            references: one network or several, as for ``load``; a zoo is returned unchanged.
            weights: see ``Zoo``.
            device: of the networks; by default, a ``Model`` keeps its own, others use the CPU.

        Raises:
            InputError: if a network cannot be loaded.
        """
        if isinstance(references, Zoo) and weights is None and device is None:
            return references
        if _is_single(references):
            references = [references]
        if not isinstance(references, Iterable):
            raise InputError(
                f"a zoo needs a network or a list of networks, got {type(references).__name__}"
            )
        return cls([load(each, device=device) for each in references], weights=weights)

    def __len__(self) -> int:
        return len(self._models)

    def __getitem__(self, index: int) -> Model:  # type: ignore[override]
        return self._models[index]

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Zoo):
            return NotImplemented
        return (
            self.weights == other.weights
            and len(self) == len(other)
            and all(map(_same_model, self, other))
        )

    def __hash__(self) -> int:
        return hash((self.names, self.weights))

    def to_plain(self) -> Any:
        """Plain JSON types, for ``from_plain``.

        A list with a reference for each network, or its spec if no reference describes it fully.
        With weights, a table of ``models`` and ``weights``.
        """
        models = [_plain_reference(model.spec) for model in self]
        if self.weights is None:
            return models
        return {"models": models, "weights": list(self.weights)}

    def identity(self) -> dict[str, Any]:
        """Everything that results depend on, of all networks."""
        members = [{"weight": each.weight, "labels": each.labels} for each in self.members]
        return {"models": [model.identity() for model in self], "members": members}

    @classmethod
    def from_plain(cls, content: Any) -> Zoo:
        """Load a zoo from ``to_plain``, on the CPU.

        Raises:
            InputError: if the content is malformed, or a network cannot be loaded.
        """
        weights = None
        if isinstance(content, Mapping) and set(content) == {"models", "weights"}:
            content, weights = content["models"], content["weights"]
        if isinstance(content, str) or not isinstance(content, Sequence):
            raise InputError(f"a zoo must be a list of networks, got {content!r}")
        references = [ModelSpec.from_dict(e) if isinstance(e, Mapping) else e for e in content]
        for reference in references:
            if isinstance(reference, ModelSpec) and reference.source == "module":
                raise InputError(
                    f"{reference.name} was a module built by the caller, which plain types cannot "
                    "describe; build the zoo with the module itself"
                )
        return cls.load(references, weights=weights)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(model.spec.name for model in self)

    @property
    def headed(self) -> tuple[Member, ...]:
        """The members with labels of the zoo."""
        return tuple(member for member in self.members if member.labels is not None)

    @property
    def num_classes(self) -> int:
        """K of the zoo; 0 if no network has a label head."""
        return self.headed[0].model.spec.num_classes if self.headed else 0

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the zoo's classes, or empty."""
        return self.headed[0].model.spec.classes if self.headed else ()

    @property
    def label_space(self) -> LabelSpace:
        """The zoo's classes."""
        label_set = self.headed[0].model.spec.label_set if self.headed else ""
        return LabelSpace("the zoo", self.num_classes, self.classes, label_set)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images to synthesize: the largest height and width of the members."""
        shapes = [model.spec.input_shape for model in self]
        return shapes[0][0], max(s[1] for s in shapes), max(s[2] for s in shapes)

    @property
    def device(self) -> torch.device:
        return self[0].device

    @torch.no_grad()
    def soft_labels(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Probabilities (N, K) of images (N, C, H, W) in [0, 1], averaged over headed members."""
        if not self.headed:
            return torch.zeros(len(images), 0)
        batches = []
        for batch in images.split(batch_size):
            batch = batch.to(self.device)
            predictions = [self._probabilities(m, batch) for m in self.headed]
            batches.append(torch.stack(predictions).mean(0).cpu())
        return torch.cat(batches)

    def _probabilities(self, member: Member, batch: Tensor) -> Tensor:
        return member.model.spec.probabilities(member.logits_of_zoo(member.model(batch)))

    @property
    def may_flip(self) -> bool:
        """Whether mirrored images keep their class for all networks, as far as specs say."""
        return all(model.spec.may_flip for model in self)

    @property
    def multi_label(self) -> bool:
        """Whether images may have several classes."""
        return bool(self.headed) and self.headed[0].model.spec.multi_label

    def __repr__(self) -> str:
        facts = {
            "networks": self.names,
            "input_shape": self.input_shape,
            "classes": self.num_classes,
            "device": self.device,
        }
        return summary("Zoo", facts)

    def _repr_html_(self) -> str:
        rows = [
            {
                "network": (spec := member.model.spec).name,
                "source": spec.source,
                "input shape": spec.input_shape,
                "classes": spec.num_classes,
                "BatchNorm layers": len(member.model.batch_norms),
                "weight": member.weight,
                "contributes": member.role,
            }
            for member in self.members
        ]
        return html_table(rows, caption=f"Zoo of {len(self)} networks")


def _is_single(references: object) -> TypeGuard[Reference]:
    if isinstance(references, tuple):
        return len(references) == 2 and isinstance(references[1], ModelSpec)
    return isinstance(references, str | Path | ModelSpec | Model | nn.Module)


def _plain_reference(spec: ModelSpec) -> Any:
    """``SOURCE`` or ``SOURCE@FILE`` if that describes the network fully, else its spec."""
    text = spec.source if spec.weights is None else f"{spec.source}@{spec.weights}"
    try:
        known = load_spec(text)
    except InputError:
        return spec.to_dict()
    # Hash and accuracy depend on the weights alone.
    return text if replace(known, sha256=spec.sha256, top1=spec.top1) == spec else spec.to_dict()


def _same_model(one: Model, other: Model) -> bool:
    if one is other:
        return True
    mine, theirs = one.module.state_dict(), other.module.state_dict()
    return (
        one.spec == other.spec
        and mine.keys() == theirs.keys()
        and all(torch.equal(mine[name].cpu(), theirs[name].cpu()) for name in mine)
    )
