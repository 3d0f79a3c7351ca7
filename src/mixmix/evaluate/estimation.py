"""What compression costs in accuracy, estimated without any real image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mixmix._display import html_table, percent, summary
from mixmix.compress.method import Progress
from mixmix.data.image_set import ImageSet
from mixmix.data.images import Images, as_image_set
from mixmix.errors import InputError
from mixmix.evaluate.evaluation import Evaluated, Predictor
from mixmix.evaluate.intervals import wilson_interval
from mixmix.models.member import places_by_name
from mixmix.models.spec import ModelSpec

__all__ = ["Estimate", "estimate_accuracy", "fit_temperature"]

_LARGEST_TEMPERATURE = 16.0
_NUM_BISECTIONS = 50
_TINY = 1e-12


@dataclass(frozen=True, repr=False)
class Estimate:
    """What synthetic images say about a compressed network, in percent.

    Attributes:
        agreement: share of images to which both networks give the same class.
        agreement_interval: its 95% Wilson interval.
        predicted_drop: top-1 accuracy of the reference minus that of the compressed network, in
            percentage points; see ``estimate_accuracy``. Never negative.
        predicted_drop_interval: its 95% interval: what another draw of synthetic images would
            change, and nothing else.
        num_images: how many images were seen.
    """

    agreement: float
    agreement_interval: tuple[float, float]
    predicted_drop: float
    predicted_drop_interval: tuple[float, float]
    num_images: int

    def _facts(self) -> dict[str, Any]:
        low, high = self.predicted_drop_interval
        return {
            "predicted_drop": f"{self.predicted_drop:.1f} points ({low:.1f}-{high:.1f})",
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
    on_progress: Progress = lambda what, share: None,
) -> Estimate:
    """Estimate from synthetic images how much accuracy a compressed network has lost.

    Where both networks give the same class, nothing is lost. Where they do not, with ``p`` the
    probabilities of the classes, ``a`` the reference's class and ``b`` the compressed network's,
    the first is right with probability ``p_a`` and the second with ``p_b``. Hence

        predicted_drop = mean over images of (p_a - p_b)

    with ``p = softmax(logits of the reference / temperature)``. Networks are too sure of themselves
    on synthetic images, so the temperature is the one that brings ``p`` nearest to the soft labels,
    in which all networks of the zoo have a say (see ``fit_temperature``). Where the reference was
    the whole zoo, it is near 1, and the drop comes out too large if the reference is overconfident.

    The agreement itself is a good deal lower than in use: synthetic images lie nearer to the
    borders of classes than photographs do. There ``p_a`` and ``p_b`` are alike, which is why the
    drop is much less affected.

    The images must not be those that the model was compressed with (see
    ``ImageSet.split``), on which it agrees more than elsewhere.

    What it is good for is telling a compression that works from one that does not, and ranking
    several. It is no bound, and no substitute for an evaluation on real images: it knows nothing of
    how photographs in use differ from synthetic ones. Expect the size of the drop and not its
    digits: too low where the rounding of very few bits was learned on images of the same kind, too
    high where weights and activations of few bits were rounded to nearest.

    Args:
        model: the compressed network: a ``Compressed``, an ``Artifact`` or the path of an ONNX
            file, or a ``Model``.
        reference: the network that it was made from, of any of these kinds.
        data: images that the compression did not see, a few hundred, as for ``compress``; where
            they have no soft labels, the reference alone says how sure one can be.
        batch_size: images at once.
        device: where a ``Compressed`` runs; a ``Model`` stays where it is.
        on_progress: called with (what is being done, share done).

    Raises:
        InputError: if a model cannot be loaded, has no label head or does not fit the images, or
            models and soft labels have different numbers of classes.

    Examples:
        >>> images, _ = mixmix.load_evaluation_pack().tensors
        >>> compressed = mixmix.compress("bundled:vgg", images[:32], "W8A8")
        >>> estimate = mixmix.estimate_accuracy(compressed, "bundled:vgg", images[32:96])
        >>> 0 <= estimate.predicted_drop < 5
        True
    """
    predict, compare = (Predictor(one, device=device) for one in (model, reference))
    if predict.spec.num_classes != compare.spec.num_classes:
        raise InputError(
            f"{predict.spec.name} has {predict.spec.num_classes} classes, the reference "
            f"{compare.spec.name} has {compare.spec.num_classes}; compare models of one label set"
        )
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    data = as_image_set(data, compare)
    soft_labels = _in_order_of(compare.spec, data)
    if soft_labels.shape[1] != compare.spec.num_classes:
        raise InputError(
            f"the images have soft labels of {soft_labels.shape[1]} classes, "
            f"{compare.spec.name} has {compare.spec.num_classes}; take images of its own label set"
        )
    logits, classes = [], []
    for index, images in enumerate(data.images.split(batch_size)):
        logits.append(compare.logits(images))
        classes.append(predict(images))
        on_progress("estimate", min(1.0, (index + 1) * batch_size / len(data)))
    same, loss = _compare(torch.cat(logits), torch.cat(classes), soft_labels)
    num_same, lost, num_images = int(same.sum()), float(loss.sum()), len(data)
    return Estimate(
        agreement=100 * num_same / num_images,
        agreement_interval=_percent_interval(num_same, num_images),
        predicted_drop=100 * lost / num_images,
        predicted_drop_interval=_percent_interval(lost, num_images),
        num_images=num_images,
    )


def _in_order_of(spec: ModelSpec, data: ImageSet) -> Tensor:
    """Soft labels of the zoo's classes, as a network lists them that has these in another order."""
    names = data.manifest.get("classes") or ()
    places = places_by_name(spec.classes, names) if spec.classes and names else None
    if places is None or len(names) != data.soft_labels.shape[1]:
        return data.soft_labels
    chosen = data.soft_labels[:, list(places)]
    return chosen / chosen.sum(1, keepdim=True).clamp_min(_TINY)


def _compare(logits: Tensor, classes: Tensor, soft_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Whether classes are those of the reference's logits (N, K), and ``p_a - p_b``: both (N,)."""
    temperature = fit_temperature(logits, soft_labels)
    probabilities = (logits.double() / temperature).softmax(1)
    loss = probabilities.amax(1) - probabilities.gather(1, classes[:, None]).squeeze(1)
    return classes == logits.argmax(1), loss


def fit_temperature(logits: Tensor, soft_labels: Tensor) -> float:
    """The temperature T of least cross-entropy of ``softmax(logits / T)`` with soft labels.

    Guo et al. 2017, On calibration of modern neural networks, section 4.2, with soft labels.

    Args:
        logits: (N, K).
        soft_labels: (N, K), probabilities.

    Returns:
        T, from 1/16 to 16.
    """
    logits, soft_labels = logits.double(), soft_labels.double()
    # The cross-entropy is convex in 1 / T, and this is its slope.
    low, high = 1 / _LARGEST_TEMPERATURE, _LARGEST_TEMPERATURE
    for _ in range(_NUM_BISECTIONS):
        inverse = (low + high) / 2
        slope = (((logits * inverse).softmax(1) - soft_labels) * logits).sum(1).mean()
        low, high = (inverse, high) if slope < 0 else (low, inverse)
    return 2 / (low + high)


def _percent_interval(hits: float, n: int) -> tuple[float, float]:
    low, high = wilson_interval(hits, n)
    return 100 * low, 100 * high
