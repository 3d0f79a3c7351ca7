"""What compression costs in accuracy, estimated without any real image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from mixmix.compression.method import Progress
from mixmix.errors import InputError
from mixmix.evaluation import Model, Predictor
from mixmix.intervals import wilson_interval
from mixmix.synthesis.dataset import SyntheticDataset

__all__ = ["Estimate", "estimate_accuracy"]


@dataclass(frozen=True)
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        intervals = {
            name: list(getattr(self, name))
            for name in ("agreement_interval", "predicted_drop_interval")
        }
        return asdict(self) | intervals


def estimate_accuracy(
    model: Model,
    reference: Model,
    data: SyntheticDataset,
    *,
    batch_size: int = 100,
    device: str | torch.device = "cpu",
    on_progress: Progress = lambda what, share: None,
) -> Estimate:
    """Estimate from synthetic images how much accuracy a compressed network has lost.

    Where both networks give the same class, nothing is lost. Where they do not, with ``p`` the
    reference's probabilities, ``a`` its class and ``b`` that of the compressed network, the
    reference is right with probability ``p_a`` and the other with ``p_b``, as far as the reference
    is calibrated. Hence

        predicted_drop = mean over images of (p_a - p_b)

    Synthetic images lie nearer to the borders of classes than photographs do, so that the
    agreement on them is a good deal lower than that in use; but there ``p_a`` and ``p_b`` are
    alike, and the two errors of the drop cancel to a large part.

    The images must not be those that the model was compressed with (see
    ``SyntheticDataset.split``), on which it agrees more than elsewhere.

    What it is good for is telling a compression that works from one that does not, and ranking
    several. It is no bound, and no substitute for an evaluation on real images: it knows nothing of
    how photographs in use differ from synthetic ones, and it takes the probabilities of the
    reference at their word.

    Args:
        model: the compressed network: a ``Compressed``, an ``Artifact`` or the path of an ONNX
            file, or a ``Teacher``.
        reference: the network that it was made from, of any of these kinds.
        data: images that the compression did not see; a few hundred.
        batch_size: images at once.
        device: where a ``Compressed`` runs; a ``Teacher`` stays where it is.
        on_progress: called with (what is being done, share done).

    Raises:
        InputError: if a model cannot be loaded, has no label head or does not fit the images, or
            both have different numbers of classes.
    """
    predict, compare = (Predictor(one, device=device) for one in (model, reference))
    if predict.spec.num_classes != compare.spec.num_classes:
        raise InputError(
            f"{predict.spec.name} has {predict.spec.num_classes} classes, the reference "
            f"{compare.spec.name} has {compare.spec.num_classes}; compare models of one label set"
        )
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    channels = predict.spec.input_shape[0]
    if data.images.shape[1] != channels:
        raise InputError(
            f"the images have {data.images.shape[1]} channels, {predict.spec.name} takes {channels}"
        )
    num_same, lost, num_images = 0, 0.0, len(data)
    for start in range(0, num_images, batch_size):
        images = data.images[start : start + batch_size]
        probabilities = compare.logits(images).double().softmax(1)
        classes = predict(images)
        num_same += int((classes == probabilities.argmax(1)).sum())
        of_compressed = probabilities.gather(1, classes[:, None]).squeeze(1)
        lost += float((probabilities.amax(1) - of_compressed).sum())
        on_progress("estimate", min(1.0, (start + batch_size) / num_images))
    return Estimate(
        agreement=100 * num_same / num_images,
        agreement_interval=_percent_interval(num_same, num_images),
        predicted_drop=100 * lost / num_images,
        predicted_drop_interval=_percent_interval(lost, num_images),
        num_images=num_images,
    )


def _percent_interval(hits: float, n: int) -> tuple[float, float]:
    low, high = wilson_interval(hits, n)
    return 100 * low, 100 * high
