"""A zoo: pretrained networks for one label set, from which images are synthesised."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mixmix.errors import InputError
from mixmix.zoo.loading import load_model, load_spec
from mixmix.zoo.spec import ModelSpec
from mixmix.zoo.teacher import Teacher

__all__ = ["Zoo"]


class Zoo(Sequence[Teacher]):
    """Frozen pretrained networks that share a label set and a number of channels.

    Args:
        teachers: at least one; those with a label head agree on the number of classes.

    Raises:
        InputError: if there is none, or they do not agree.
    """

    def __init__(self, teachers: Iterable[Teacher]) -> None:
        self._teachers = tuple(teachers)
        if not self._teachers:
            raise InputError("a zoo needs at least one network")
        names = [teacher.spec.name for teacher in self._teachers]
        if len(set(names)) < len(names):
            raise InputError(f"networks of a zoo need different names, got {', '.join(names)}")
        self._agree("channels", {t.spec.name: t.spec.input_shape[0] for t in self._teachers})
        headed = [t for t in self._teachers if t.has_label_head]
        self._agree("classes", {t.spec.name: t.spec.num_classes for t in headed})
        self._agree(
            "label sets", {t.spec.name: t.spec.label_set for t in headed if t.spec.label_set}
        )

    @staticmethod
    def _agree(what: str, values: dict[str, object]) -> None:
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name}: {value}" for name, value in values.items())
            raise InputError(
                f"the networks of a zoo must agree on their {what}, got {listed}; leave out those "
                "that differ"
            )

    @classmethod
    def load(
        cls,
        references: Iterable[str | Path | ModelSpec | tuple[nn.Module, ModelSpec]],
        *,
        device: str | torch.device = "cpu",
    ) -> Zoo:
        """Load a zoo.

        Args:
            references: each a ``bundled:NAME``, the path of a model spec (TOML or JSON), a
                ``ModelSpec``, or a pair of your own module and its spec.
            device: where the networks run.

        Raises:
            InputError: naming the network that cannot be loaded and why.
        """
        if isinstance(references, str | Path | ModelSpec):
            raise InputError(f"Zoo.load takes a list of networks; write [{references!r}]")
        teachers = []
        for reference in references:
            if isinstance(reference, tuple):
                module, spec = reference
            else:
                spec = load_spec(reference)
                module = load_model(spec)
            teachers.append(Teacher(module, spec, device=device))
        return cls(teachers)

    def __len__(self) -> int:
        return len(self._teachers)

    def __getitem__(self, index: int) -> Teacher:  # type: ignore[override]
        return self._teachers[index]

    def __iter__(self) -> Iterator[Teacher]:
        return iter(self._teachers)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(teacher.spec.name for teacher in self)

    @property
    def num_classes(self) -> int:
        """K of the members with a label head; 0 where none has one."""
        return max(teacher.spec.num_classes for teacher in self)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images to synthesise: the largest height and width among the members."""
        shapes = [teacher.spec.input_shape for teacher in self]
        return shapes[0][0], max(s[1] for s in shapes), max(s[2] for s in shapes)

    @property
    def device(self) -> torch.device:
        return self[0].device

    @torch.no_grad()
    def soft_labels(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Probabilities (N, K) of images (N, C, H, W) in [0, 1], averaged over headed members."""
        headed = [teacher for teacher in self if teacher.has_label_head]
        if not headed:
            return torch.zeros(len(images), 0)
        batches = []
        for batch in images.split(batch_size):
            batch = batch.to(self.device)
            batches.append(sum(t(batch).softmax(1) for t in headed).cpu() / len(headed))  # type: ignore[union-attr]
        return torch.cat(batches)
