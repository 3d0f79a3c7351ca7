"""How do activations on our images differ from those on photographs, layer by layer?

``python benchmarks/diagnosis.py --photographs CALIBRATION --images NAME=FOLDER ...
--out benchmarks/records/DATE_diagnosis``

Photographs are for diagnosis here, and never those that networks are evaluated on. Of the inputs of
each BatchNorm, in units of its running standard deviation:

- ``distance``: of mean and standard deviation of each channel from the running ones (root mean
  square over channels);
- ``between``: variance, over images, of a channel's mean in an image (mean over channels);
- ``contrast``: standard deviation, over images, of the logarithm of a channel's variance in one;
- ``kurtosis``: of a channel's values, median over channels.

Channels whose running variance is below a thousandth of the layer's median are left out.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from harness.record import Record
from harness.threads import limit_threads
from imagenet_parts.images import load_photographs
from torch import Tensor, nn

from mixmix import ImageSet, Model, load

QUESTION = "How do activations on our images differ from those on photographs, layer by layer?"
KEY = ("model", "setting", "images", "seed")
_LEAST_VARIANCE = 1e-3


@torch.no_grad()
def statistics(model: Model, images: Tensor) -> list[dict[str, float | str]]:
    """One row for each BatchNorm, in order of execution; all images are one batch."""
    found: list[dict[str, float | str]] = []

    def measure(name: str, norm: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        variance = norm.running_var
        used = variance > _LEAST_VARIANCE * variance.median()
        mean, spread = (
            each[used].view(1, -1, 1, 1) for each in (norm.running_mean, variance.sqrt())
        )
        x = (inputs[0][:, used] - mean) / spread
        means, variances = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        centered = x - means.view(1, -1, 1, 1)
        fourth = centered.pow(4).mean((0, 2, 3)) / variances.square().clamp_min(1e-12)
        contrast = x.var((2, 3)).clamp_min(1e-6).log().std(0)
        found.append(
            {
                "layer": name,
                "distance": float((means.square() + (variances.sqrt() - 1).square()).mean().sqrt()),
                "between": float(x.mean((2, 3)).var(0).mean()),
                "contrast": float(contrast.mean()),
                "kurtosis": float(fourth.median()),
            }
        )

    hooks = [
        norm.register_forward_hook(partial(measure, name))
        for name, norm in model.module.named_modules()
        if isinstance(norm, nn.BatchNorm2d)
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="imagenet:efficientnet_lite0")
    parser.add_argument("--photographs", type=Path, required=True, help="not those of evaluations")
    parser.add_argument("--images", nargs="*", default=[], help="NAME=FOLDER of an image set")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    limit_threads(1)
    record = Record(arguments.out / "result.json", QUESTION, KEY)
    model = load(arguments.model)
    sets = {"photographs": load_photographs(arguments.photographs, model.spec.input_shape[1])[0]}
    for text in arguments.images:
        name, _, folder = text.partition("=")
        sets[name] = ImageSet.load(folder).images
    for name, images in sets.items():
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        row = {"model": model.spec.name, "task": "diagnosis", "setting": "float", "images": name}
        row |= {"seed": 0, "num_images": len(pixels)}
        if row in record:
            continue
        layers = statistics(model, pixels)
        record.add(row | {"layers": layers})
        parts = [layers[i * len(layers) // 5 : (i + 1) * len(layers) // 5] for i in range(5)]
        for key in ("distance", "between", "contrast", "kurtosis"):
            means = [sum(float(each[key]) for each in part) / len(part) for part in parts]
            print(f"{name:14s} {key:10s}", " ".join(f"{mean:6.2f}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
