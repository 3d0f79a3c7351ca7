"""A frozen pretrained network with its normalization and BatchNorm statistics."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mixmix._display import summary
from mixmix.errors import (
    CaptureError,
    InputError,
    raise_if_out_of_memory,
    translate_errors,
    warn,
)
from mixmix.graph.agreement import output_error
from mixmix.graph.batch_norm import (
    BatchNorm,
    check_statistics,
    has_statistics,
    standardize_batch_norms_,
)
from mixmix.graph.capture import evaluating
from mixmix.models.classes import list_some, repeated_names
from mixmix.models.fused import FusedNetwork
from mixmix.models.hooked import HookedNetwork
from mixmix.models.observation import Observation
from mixmix.models.plain_copy import (
    check_finite,
    check_materialized,
    drop_observing_hooks_,
    plain_copy,
    unwrapped,
)
from mixmix.models.spec import ModelSpec, channels_first_hint
from mixmix.runtime.compiled import has_compiler
from mixmix.runtime.devices import checked_device
from mixmix.runtime.identity import identity_of
from mixmix.runtime.storage import sha256_of_tensors

__all__ = ["Model", "normalize", "resize"]

# Of a copy's outputs: in half precision, and in more.
_COPY_TOLERANCE = (0.1, 1e-3)


def normalize(images: Tensor, spec: ModelSpec, *, scale: float = 1.0) -> Tensor:
    """Resize and normalize images (N, C, H', W') in [0, 1] for a network; differentiable.

    Args:
        images: in [0, 1].
        spec: of the network.
        scale: height and width as a fraction of those of the network.
    """
    size = tuple(max(1, round(scale * side)) for side in spec.input_shape[1:])
    images = resize(images, size)
    mean = torch.tensor(spec.mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(spec.std, device=images.device).view(1, -1, 1, 1)
    return (images - mean) / std


def resize(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize images (N, C, H, W) bilinearly with antialiasing; differentiable.

    Args:
        images: in [0, 1].
        size: (height, width).
    """
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(
        images, size=list(size), mode="bilinear", align_corners=False, antialias=True
    )


class Model:
    """A frozen network in eval mode that takes images in [0, 1]; ``load`` makes one.

    >>> import mixmix, torch
    >>> model = mixmix.load("bundled:resnet")
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])

    Args:
        model: maps normalized images (N, C, H, W) to logits (N, K). It is copied, without wrappers
            for data parallelism, weight averaging or ``torch.compile``.
        spec: its input shape, normalization and classes.
        device: to run on.

    Raises:
        InputError: if it is a TorchScript module, weights are not finite, or its outputs are not
            logits that fit the spec.
    """

    def __init__(
        self, model: nn.Module, spec: ModelSpec, *, device: str | torch.device = "cpu"
    ) -> None:
        self.device = checked_device(device)
        model = unwrapped(model)
        check_materialized(model, spec.name)
        check_finite(model, spec.name)
        # Images are float32, and half precision is too coarse to optimize them through.
        self.module = plain_copy(model, spec.name).to(self.device).float().eval()
        self.module.requires_grad_(False)
        self.spec = replace(spec, sha256=spec.sha256 or sha256_of_tensors(model.state_dict()))
        noise = torch.rand(2, *spec.input_shape, generator=torch.Generator().manual_seed(0))
        standardize_batch_norms_(self.module, normalize(noise.to(self.device), spec))
        self.batch_norms: tuple[BatchNorm, ...] = tuple(
            module  # type: ignore[misc]
            for module in self.module.modules()
            if has_statistics(module)
        )
        check_statistics(self.module, spec.name)
        repeated = repeated_names(spec.classes)
        if repeated:
            warn(
                f"{spec.name}: several classes are called {list_some(repeated)}, so that they "
                "cannot be told apart by name; correct classes"
            )
        # By scale.
        self._networks: dict[float, HookedNetwork | FusedNetwork] = {}
        self._taken: dict[float, bool] = {}
        self._wants_contiguous = False
        self._check_copy(model)
        with _Sigmoids() as sigmoids:
            output = self._first_output()
        self._check_output(output, sigmoids)

    def __repr__(self) -> str:
        facts = {
            "source": self.spec.source,
            "input_shape": self.spec.input_shape,
            "classes": self.spec.num_classes,
            "parameters": sum(each.numel() for each in self.module.parameters()),
            "batch_norms": len(self.batch_norms),
            "top1": self.spec.top1,
            "device": self.device,
        }
        return summary("Model", {"name": self.spec.name} | facts)

    def identity(self) -> dict[str, Any]:
        """Everything that results depend on: the fields of the spec, weights and architecture."""
        return self.spec.identity() | identity_of(self.module)

    @property
    def has_label_head(self) -> bool:
        return self.spec.num_classes > 0

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        logits: Tensor = self.module(self._prepared(images))
        return logits

    @torch.no_grad()
    def logits(self, images: Tensor, *, batch_size: int = 256) -> Tensor:
        """Logits (N, K) on the CPU of images (N, C, H, W) in [0, 1], in batches."""
        return torch.cat([self(b.to(self.device)).cpu() for b in images.split(batch_size)])

    def observe(
        self,
        images: Tensor,
        *,
        precision: str = "float32",
        scale: float = 1.0,
    ) -> Observation:
        """Run the network and return statistics of its layers, differentiable in ``images``.

        Several threads may observe at a time after ``prepare``.

        Args:
            images: (N, C, H, W) in [0, 1].
            precision: of activations: ``float32``, ``bfloat16``, or ``auto`` for bfloat16 on GPUs
                that support it. Results are in float32.
            scale: resolution as a fraction of the network's own, in (0, 1]; ignored if the network
                supports no other resolution (``takes``).
        """
        scale = scale if scale == 1 or self.takes(scale) else 1.0
        inputs = self._prepared(images, scale=scale)
        if precision == "bfloat16" or (precision == "auto" and _is_built_for_bfloat16(self.device)):
            with torch.autocast(self.device.type, torch.bfloat16):
                return self._hooked.observe(inputs)
        return self._network_at(scale).observe(inputs)

    def prepare(self, *, scale: float = 1.0, precision: str = "float32") -> None:
        """Build what ``observe`` needs; not thread-safe."""
        images = torch.full((2, *self.spec.input_shape), 0.5, device=self.device)
        with torch.no_grad():
            self.observe(images, precision=precision, scale=scale)

    def takes(self, scale: float) -> bool:
        """Whether the network runs at this fraction of its own resolution."""
        if scale not in self._taken:
            images = torch.full((2, *self.spec.input_shape), 0.5, device=self.device)
            with torch.no_grad():
                expected = self(images)
                try:
                    found = self.module(self._prepared(images, scale=scale))
                except Exception as error:  # whatever the network's own code raises
                    raise_if_out_of_memory(error)
                    self._taken[scale] = False
                else:
                    # The feature map of a backbone shrinks.
                    self._taken[scale] = not self.has_label_head or found.shape == expected.shape
        return self._taken[scale]

    def _prepared(self, images: Tensor, *, scale: float = 1.0) -> Tensor:
        inputs = normalize(images, self.spec, scale=scale)
        return inputs.contiguous() if self._wants_contiguous else inputs

    @cached_property
    def _hooked(self) -> HookedNetwork:
        return HookedNetwork(self.module)

    def _network_at(self, scale: float) -> HookedNetwork | FusedNetwork:
        """The fused network, if it can be built and agrees with the hooked one."""
        if scale not in self._networks:
            self._networks[scale] = self._fused(scale) or self._hooked
        return self._networks[scale]

    @torch.no_grad()
    def _fused(self, scale: float) -> FusedNetwork | None:
        if self.device.type != "cpu" or not has_compiler():
            return None
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(4, *self.spec.input_shape, generator=generator)
        inputs = self._prepared(images, scale=scale)
        try:
            fused = FusedNetwork(self.module, inputs)
        except CaptureError:
            return None
        return fused if fused.agrees_with(self._hooked.observe(inputs), inputs) else None

    @torch.no_grad()
    def _first_output(self) -> object:
        """The output for two images; channels-last is faster, if the network's code supports it."""
        shape = self.spec.input_shape
        images = torch.full((2, *shape), 0.5, device=self.device)
        if shape[0] > 1:
            try:
                self.module = self.module.to(memory_format=torch.channels_last)
                return self(images)
            except Exception as error:  # of weights with five dimensions, or the module's own code
                raise_if_out_of_memory(error)
                self.module = self.module.to(memory_format=torch.contiguous_format)
                self._wants_contiguous = True
        with translate_errors(
            f"{self.spec.name} cannot take images of {shape}",
            "check input_shape" + channels_first_hint(shape),
        ):
            return self(images)

    @torch.no_grad()
    def _check_copy(self, model: nn.Module) -> None:
        """Compare the copy with the caller's network, without hooks that only observe.

        Both have the caller's memory layout: others round differently, which changes the values of
        quantizers.
        """
        images = torch.rand(4, *self.spec.input_shape, generator=torch.Generator().manual_seed(0))
        inputs, others = self._prepared(images.to(self.device)).split(2)
        try:
            drop_observing_hooks_(self.module, inputs, others)
            found = self.module(inputs.clone())
        except Exception as error:  # which the first output reports
            raise_if_out_of_memory(error)
            return
        if not isinstance(found, Tensor) or not found.is_floating_point():
            return  # likewise
        kind = next((p for p in model.parameters() if p.is_floating_point()), inputs)
        tolerance = _COPY_TOLERANCE[kind.element_size() >= 4]
        with evaluating(model):
            try:
                wanted = model(inputs.to(kind, copy=True)).to(found)
            except Exception as error:  # half precision on the CPU, say
                raise_if_out_of_memory(error)
                return
            difference = output_error(found, wanted)
            # What is random cannot be compared, and NaN is not of the copy.
            again = model(inputs.to(kind, copy=True)).to(found) if difference > tolerance else None
            if again is not None and torch.equal(again, wanted):
                raise InputError(
                    f"{self.spec.name}: a copy of the network gives other outputs (by "
                    f"{difference:.1%}); it needs something that is not copied with it, such as "
                    "state outside of its modules"
                )

    def _check_output(self, logits: object, sigmoids: _Sigmoids) -> None:
        if not isinstance(logits, Tensor):
            raise InputError(
                f"{self.spec.name} returns a {type(logits).__name__}, expected a tensor of logits; "
                "wrap it in a module that returns the logits alone"
            )
        if not logits.is_floating_point():
            raise InputError(
                f"{self.spec.name} returns {str(logits.dtype).removeprefix('torch.')} values, "
                "expected logits, which are floats; leave out what comes after them, such as argmax"
            )
        if not self.has_label_head and (logits.ndim < 2 or len(logits) != 2):
            raise InputError(
                f"{self.spec.name} returns outputs of shape {tuple(logits.shape)} for 2 images, "
                "expected (2, K) or (2, ...); wrap it in a module that returns a row for each "
                "image, such as output[:, None] of a squeezed one"
            )
        if self.has_label_head and tuple(logits.shape) != (2, self.spec.num_classes):
            raise InputError(
                f"{self.spec.name} returns outputs of shape {tuple(logits.shape)} for 2 images, "
                f"expected (2, {self.spec.num_classes}); check num_classes"
            )
        if self.has_label_head and _are_probabilities(logits):
            raise InputError(
                f"{self.spec.name} returns probabilities, whose sum is 1 for each image, expected "
                "logits; leave out its softmax, or wrap it in a module that returns their logarithm"
            )
        if self.has_label_head and sigmoids.include(logits):
            raise InputError(
                f"{self.spec.name} ends in a sigmoid, expected logits; leave it out, and set "
                "multi_label=True if an image may have several classes or none"
            )


class _Sigmoids(TorchDispatchMode):
    """Context that keeps the results of sigmoids."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._results: list[Tensor] = []

    def include(self, value: Tensor) -> bool:
        """Whether a tensor, or a reshaped one, is one of them."""
        return any(
            value.data_ptr() == each.data_ptr() and value.numel() == each.numel()
            for each in self._results
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.sigmoid, torch.ops.aten.sigmoid_):
            self._results.append(result)
        return result


def _are_probabilities(outputs: Tensor) -> bool:
    sums = outputs.sum(1)
    return bool((outputs >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


def _is_built_for_bfloat16(device: torch.device) -> bool:
    # From Ampere on; older GPUs emulate it.
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
