"""Estimates the accuracy loss from compression, without real images."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixmix._display import html_table, percent, summary
from mixmix.data.images import Images, as_image_set
from mixmix.errors import InputError
from mixmix.evaluate.intervals import percent_interval
from mixmix.evaluate.predictor import Evaluated, Predictor, check_comparable, is_file
from mixmix.runtime.progress import Progress, showing
from mixmix.runtime.seeding import generator

__all__ = ["Estimate", "estimate_accuracy", "fit_temperature", "loss_and_bound"]

# Points of accuracy per squared relative error of the logits, and what the bound allows beyond the
# estimate: from benchmarks/records/2026-11-28_estimates.
_POINTS_PER_SQUARE = 40.0
_BOUND_FACTOR, _BOUND_POINTS = 2.0, 0.3

_LARGEST_TEMPERATURE = 16.0
_NUM_BISECTIONS = 50
_NUM_RESAMPLES = 1000


@dataclass(frozen=True, repr=False)
class Estimate:
    """Agreement and predicted accuracy loss of a compressed network, in percent.

    Attributes:
        agreement: images with the same classes from both networks.
        agreement_interval: 95% Wilson interval of the agreement.
        predicted_drop: top-1 accuracy of the reference minus that of the compressed network, in
            percentage points, >= 0; see ``estimate_accuracy``.
        predicted_drop_interval: 95% interval over draws of synthetic images only; it does not say
            how much these differ from photographs, which ``upper_bound`` does.
        num_images: number of images.
        upper_bound: bound of the loss in percentage points, 0 if all logits are equal; see
            ``estimate_accuracy``.
    """

    agreement: float
    agreement_interval: tuple[float, float]
    predicted_drop: float
    predicted_drop_interval: tuple[float, float]
    num_images: int
    upper_bound: float

    def _facts(self) -> dict[str, Any]:
        low, high = self.predicted_drop_interval
        return {
            "predicted_drop": f"{self.predicted_drop:.1f} points ({low:.1f}-{high:.1f})",
            "at most": f"{self.upper_bound:.1f} points",
            "agreement": percent(self.agreement, self.agreement_interval),
            "images": self.num_images,
        }

    def __repr__(self) -> str:
        return summary("Estimate", self._facts())

    def _repr_html_(self) -> str:
        return html_table([self._facts()], caption="Estimate, with 95% intervals")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        intervals = {
            name: list(getattr(self, name))
            for name in ("agreement_interval", "predicted_drop_interval")
        }
        return asdict(self) | intervals


def estimate_accuracy(
    model: Evaluated,
    reference: Evaluated,
    data: Images,
    *,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    on_progress: Progress | None = None,
) -> Estimate:
    """Estimate from synthetic images how much accuracy a compressed network has lost.

    If ``a`` is the class from the reference, ``b`` the class from the compressed network, and ``p``
    are the probabilities of the classes, then ``a`` is correct with probability ``p_a`` and ``b``
    with ``p_b``. Hence

        predicted_drop = mean over images of (p_a - p_b)

    with ``p = softmax(logits of the reference / temperature)``. Networks are overconfident on
    synthetic images, so the temperature is fitted to the soft labels, which average the networks of
    the zoo (see ``fit_temperature``). If the zoo is the reference alone, the temperature is near 1,
    and the drop of an overconfident reference is too large.

    Networks are surer of images that were made from them than of photographs: their classes stay
    the same, and this is 0, while accuracy is lost. The error of the logits is about the same on
    both, and small errors change only classes that are nearly as probable as the right one, so that
    the loss grows with the square of the error. The estimate is therefore 40 points times the
    squared error of the logits over their variance (within images), but not below the 95% interval
    of the mean above, nor, if any class changed, beyond it. Use images that the model was not
    compressed with (see ``ImageSet.split``).

    ``upper_bound`` is twice the estimate and 0.3 points. These constants are from a record of eight
    networks with ten classes (``benchmarks/records/2026-11-28_estimates``); for other networks the
    bound may fail. It does not replace an evaluation on real images.

    With ``multi_label``, ``a`` and ``b`` are whether a class is predicted, ``p`` are sigmoids, and
    the mean is over images and classes: ``predicted_drop`` is that of ``label_accuracy``.

    >>> import mixmix, torch
    >>> images = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    >>> mixmix.estimate_accuracy("bundled:resnet", "bundled:resnet", images).predicted_drop
    0.0

    Args:
        model: the compressed network: a ``Compressed``, an ``Artifact`` or the path of an ONNX
            file, or whatever ``load`` takes.
        reference: the original network, of any of these types.
        data: a few hundred images, as for ``compress``; without soft labels, those of the
            reference are used.
        batch_size: images per batch.
        device: of a ``Compressed``; a ``Model`` keeps its own.
        on_progress: called with (current step, fraction done); None shows progress on standard
            error.

    Raises:
        InputError: if a model cannot be loaded, has no label head or does not fit the images, if
            only the reference is compressed, or
            models and soft labels have different numbers of classes.

    Examples:
        >>> images, _ = mixmix.load_evaluation_pack().tensors
        >>> compressed = mixmix.compress("bundled:vgg", images[:32], "W8A8")
        >>> estimate = mixmix.estimate_accuracy(compressed, "bundled:vgg", images[32:96])
        >>> 0 <= estimate.predicted_drop < 5
        True
    """
    predict, compare = (Predictor(one, device=device) for one in (model, reference))
    check_comparable(predict, compare, batch_size)
    if compare.is_compressed and not (predict.is_compressed or is_file(model)):
        raise InputError(
            f"the reference {compare.spec.name} is compressed and the model is not; the compressed "
            "model comes first, then the original"
        )
    data = as_image_set(data, compare, keep_labels=True)
    soft_labels = data.soft_labels
    if soft_labels.shape[1] != compare.spec.num_classes:
        raise InputError(
            f"the images have soft labels of {soft_labels.shape[1]} classes, "
            f"{compare.spec.name} has {compare.spec.num_classes}; use images of its own label set"
        )
    logits, others = [], []
    with showing("estimating", on_progress) as advance:
        for index, images in enumerate(data.images.split(batch_size)):
            logits.append(compare.logits(images))
            others.append(predict.logits(images))
            advance("estimate", min(1.0, (index + 1) * batch_size / len(data)))
    found = loss_and_bound(
        torch.cat(logits), torch.cat(others), soft_labels, multi_label=compare.spec.multi_label
    )
    return Estimate(
        agreement=100 * found.num_same / len(data),
        agreement_interval=percent_interval(found.num_same, len(data)),
        predicted_drop=found.drop,
        predicted_drop_interval=found.interval,
        num_images=len(data),
        upper_bound=found.bound,
    )


class LossAndBound(NamedTuple):
    """Images whose classes stay, and in points: estimated loss, its interval, its bound."""

    num_same: int
    drop: float
    interval: tuple[float, float]
    bound: float


def loss_and_bound(
    wanted: Tensor, got: Tensor, soft_labels: Tensor, *, multi_label: bool = False
) -> LossAndBound:
    """The numbers of ``estimate_accuracy``, from logits of the reference and of the model.

    Args:
        wanted: (N, K), of the reference.
        got: (N, K), of the compressed network.
        soft_labels: (N, K), of the images.
        multi_label: whether each logit is for itself.
    """
    classes = got >= 0 if multi_label else got.argmax(1)
    same, loss = (_compare_labels if multi_label else _compare)(wanted, classes, soft_labels)
    num_same, lost, num_images = int(same.sum()), float(loss.sum()), len(wanted)
    drop, (low, high) = 100 * lost / num_images, percent_interval(lost, num_images)
    if not multi_label:
        # What the error of the logits implies, within what the classes allow if any changed.
        high = high if num_same < num_images else 100.0
        implied = _POINTS_PER_SQUARE * _squared_errors(got, wanted)
        drop, low, high = (min(high, max(low, float(each))) for each in implied)
    bound = _BOUND_FACTOR * drop + _BOUND_POINTS * (not torch.equal(got, wanted))
    return LossAndBound(num_same, drop, (low, high), min(100.0, bound))


def _squared_errors(logits: Tensor, wanted: Tensor) -> Tensor:
    """Squared error of logits (N, K) over their variance, and a 95% interval of it: (3,).

    Without what all logits of an image share; the interval is over draws of images (bootstrap).
    """
    wanted = wanted.double() - wanted.double().mean(1, keepdim=True)
    errors = (logits.double() - logits.double().mean(1, keepdim=True) - wanted).square().sum(1)
    sizes = wanted.square().sum(1)
    draws = torch.randint(
        len(wanted), (_NUM_RESAMPLES, len(wanted)), generator=generator(0, "estimate")
    ).to(wanted.device)
    ratios = errors[draws].sum(1) / sizes[draws].sum(1).clamp_min(1e-24)
    ends = ratios.quantile(torch.tensor([0.025, 0.975]).to(ratios))
    return torch.cat([(errors.sum() / sizes.sum().clamp_min(1e-24))[None], ends])


def _compare(logits: Tensor, classes: Tensor, soft_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether classes equal those of the logits (N, K), and ``p_a - p_b``: both (N,)."""
    temperature = fit_temperature(logits, soft_labels)
    probabilities = (logits.double() / temperature).softmax(1)
    loss = probabilities.amax(1) - probabilities.gather(1, classes[:, None]).squeeze(1)
    return classes == logits.argmax(1), loss


def _compare_labels(logits: Tensor, classes: Tensor, soft_labels: Tensor) -> tuple[Tensor, Tensor]:
    """As ``_compare`` for ``multi_label``: classes (N, K) bool, and the loss is that of labels."""
    temperature = fit_temperature(logits, soft_labels, multi_label=True)
    differ = classes != (logits >= 0)
    margins = (2 * (logits.double() / temperature).sigmoid() - 1).abs()
    return ~differ.any(1), (margins * differ).mean(1)


def fit_temperature(logits: Tensor, soft_labels: Tensor, *, multi_label: bool = False) -> float:
    """The T that minimizes the cross-entropy of ``softmax(logits / T)`` and soft labels.

    Guo et al. 2017, On calibration of modern neural networks, section 4.2, with soft labels.

    Args:
        logits: (N, K).
        soft_labels: (N, K), probabilities.
        multi_label: whether probabilities are sigmoids.

    Returns:
        T, from 1/16 to 16.
    """
    logits, soft_labels = logits.double(), soft_labels.double()
    # The cross-entropy is convex in 1 / T, and this is its slope.
    low, high = 1 / _LARGEST_TEMPERATURE, _LARGEST_TEMPERATURE
    for _ in range(_NUM_BISECTIONS):
        inverse = (low + high) / 2
        scaled = logits * inverse
        probabilities = scaled.sigmoid() if multi_label else scaled.softmax(1)
        slope = ((probabilities - soft_labels) * logits).sum(1).mean()
        low, high = (inverse, high) if slope < 0 else (low, inverse)
    return 2 / (low + high)
