"""Compress one network and compare every result in values: NAME SEED LOG."""

from __future__ import annotations

import copy
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import mixmix
from mixmix.errors import ExportError, InputError

CLASSES = 10
SIZES = (32, 64, 96, 128, 160, 224, 256, 299)
# The largest errors, relative to the spread of the outputs over the images; networks of random
# weights can be chaotic. Of the loaded network, or ten times what the last bit of images changes.
# Of W8A8 to the network, or 1.5 times the error of plain rounding. Of a file to its model, or 1.5
# times the model's own error of quantization: a step of 8 bits here or there is right (integer
# kernels round exact sums, others sums of floats), and grows through such a network until file and
# model are two independent roundings.
LOADED_ERROR = 1e-4
QUANTIZED_ERROR = 0.25
FILE_ERROR = 5e-3
LARGEST_OUTPUT = 1e4


def build(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The network with random weights, and the smallest input shape that it takes."""
    kind, architecture = name.split(":")
    errors = []
    for size in SIZES:
        for arguments in ({"img_size": size}, {}):
            torch.manual_seed(0)
            try:
                module = _create(kind, architecture, arguments)
                _settle(module, size)
            except Exception as error:
                errors.append(f"{size}: {error}")
                continue
            return module, (3, size, size)
    raise RuntimeError(f"{name} takes no size: {errors[-1]}")


def _create(kind: str, architecture: str, arguments: dict) -> nn.Module:
    if kind == "timm":
        import timm

        return timm.create_model(architecture, pretrained=False, num_classes=CLASSES, **arguments)
    import torchvision

    if arguments:
        raise RuntimeError("no size")
    extra = {"init_weights": True} if architecture in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(architecture, num_classes=CLASSES, **extra)


def _settle(module: nn.Module, size: int) -> None:
    """Run a few batches in training mode, for the statistics of BatchNorm; keep no dropout.

    Networks of random weights whose outputs explode with these statistics are no networks to test.
    """
    for each in module.modules():
        if "Drop" in type(each).__name__ and isinstance(getattr(each, "p", None), float):
            each.p = 0.0
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.momentum = None
            if each.affine:  # mostly linear: a network of random weights alone is chaotic
                nn.init.uniform_(each.weight, 0.5, 1.0)
                nn.init.uniform_(each.bias, 0.0, 1.0)
    module.train()
    with torch.no_grad():
        for seed in range(3):
            module(normalized(images(8, size, seed)))
        largest = float(module.eval()(normalized(images(8, size, 3))).abs().max())
    if not largest < LARGEST_OUTPUT:
        raise RuntimeError(f"outputs of up to {largest:.1e}")


def images(count: int, size: int, seed: int) -> Tensor:
    """Smooth random images in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, size, size)
    for cells in (2, 4, 8, 16):
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        total += torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (0.5 + 0.15 * total).clamp(0, 1)


def normalized(batch: Tensor) -> Tensor:
    """With mean 0.5 and standard deviation 0.25."""
    return (batch - 0.5) / 0.25


def error_of(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of the deviations from the mean over the images."""
    spread = (expected - expected.mean(0)).norm().clamp(min=1e-6 * float(expected.norm()) + 1e-12)
    return float((found - expected).norm() / spread)


def rounded(module: nn.Module, batch: Tensor) -> Tensor:
    """Outputs with everything rounded to 8 bits that a module gives, by the simplest code there is.

    Weights and inputs of layers are rounded as well. Ranges are those of the batch itself.
    """
    copy_ = copy.deepcopy(module)
    for layer in copy_.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _1, _2, output: _to_8_bits(output))
        if isinstance(layer, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                largest = layer.weight.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
                step = largest.reshape(-1, *[1] * (layer.weight.dim() - 1))
                layer.weight.copy_((layer.weight / step).round() * step)
            layer.register_forward_pre_hook(lambda _, inputs: (_to_8_bits(inputs[0]), *inputs[1:]))
    with torch.no_grad():
        return copy_(_to_8_bits(batch))


def _to_8_bits(values: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return values
    low, high = values.min().clamp(max=0), values.max().clamp(min=0)
    step = (high - low).clamp(min=1e-12) / 255
    return ((values - low) / step).round() * step + low


class Log:
    """The outcomes of steps, one line of JSON each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def step(self, name: str, run: Callable[[], tuple[object, float, float]]) -> object | None:
        """Run a step that returns its result, its error and the error allowed; log the outcome."""
        started = time.process_time()
        result, row = None, {"step": name}
        try:
            result, error, allowed = run()
            row |= {"outcome": "ok" if error <= allowed else "wrong", "error": error}
        except (InputError, ExportError) as refusal:
            row |= {"outcome": "refused", "why": f"{type(refusal).__name__}: {refusal}"}
        except Exception:
            row |= {"outcome": "traceback", "why": traceback.format_exc()[-3000:]}
        row["seconds"] = round(time.process_time() - started, 1)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return result


def run_file(path: Path, batch: Tensor) -> Tensor:
    """Outputs of a file, without mixmix."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        return torch.from_numpy(found)
    from mixmix.runtimes.program import ProgramSession

    return ProgramSession(path.read_bytes()).run(batch)


def main() -> None:
    """Run all steps of one network."""
    name, seed, log = sys.argv[1], int(sys.argv[2]), Log(Path(sys.argv[3]))
    torch.set_num_threads(1)
    module, shape = build(name)
    few = images(32, shape[-1], seed + 10)
    test = normalized(images(9, shape[-1], seed + 11))
    with torch.no_grad():
        expected = module(test)
        moved = error_of(module(test * (1 + torch.finfo(test.dtype).eps)), expected)
    plain = error_of(rounded(module, test), expected)

    def load() -> tuple[object, float, float]:
        model = mixmix.load(module, input_shape=shape, mean=0.5, std=0.25, name=name)
        with torch.no_grad():
            return model, error_of(model.module(test), expected), max(LOADED_ERROR, 10 * moved)

    def compressed_by(method: object, allowed: float) -> Callable:
        def run() -> tuple[object, float, float]:
            result = mixmix.compress(model, few, method, seed=seed)
            with torch.no_grad():
                return result, error_of(result.module(test), expected), allowed

        return run

    def exported(compressed: mixmix.Compressed, format: str, folder: Path) -> Callable:
        def run() -> tuple[object, float, float]:
            path = folder / f"net.{format}"
            mixmix.export(compressed, path)
            with torch.no_grad():
                wanted = compressed.module(test)
            found = torch.cat([run_file(path, test[:1]), run_file(path, test[1:])])
            quantized = any("bits" in str(one) for one in compressed.settings)
            own = error_of(wanted, expected) if quantized else 0.0
            return path, error_of(found, wanted), max(FILE_ERROR, 1.5 * own)

        return run

    model = log.step("load", load)
    if model is None:
        return
    methods = {
        "quantize": (mixmix.Quantize("W8A8"), max(QUANTIZED_ERROR, 1.5 * plain)),
        "prune": (mixmix.PruneChannels(max_macs=0.7, num_images=16, recovery=()), float("inf")),
    }
    for label, (method, allowed) in methods.items():
        result = log.step(label, compressed_by(method, allowed))
        for format in ("onnx", "pt2") if result is not None else ():
            with TemporaryDirectory() as folder:
                log.step(f"{label} {format}", exported(result, format, Path(folder)))


if __name__ == "__main__":
    main()
