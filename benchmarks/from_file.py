"""How does ``mixmix compress`` compare with other tools that quantize a file?

``python benchmarks/from_file.py --weights-dir WEIGHTS --peers-python PYTHON --work WORK
--out benchmarks/records/DATE_from_file``

Every network is an ONNX file whose BatchNorm is folded, as PyTorch's exporter writes it, and every
tool is one process from this file to a quantized file, which ONNX Runtime then runs. ``mixmix`` are
images that ``mixmix compress`` makes from the file; ``real`` are bundled training images;
``uniform`` are pixels drawn at random, ``normal`` are values that the network takes, drawn from
N(0, 1), which no image has. A tool that fails gets a row with its ``error``. A run adds the missing
rows to an existing record; files in WORK are not made again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from harness.cifar10 import load_cifar10
from harness.clocks import stopwatch
from harness.networks import load_network
from harness.record import Record
from harness.threads import limit_threads
from PIL import Image
from torch import Tensor

from mixmix import ImageSet, load_evaluation_pack
from mixmix.demo.cifar10 import load_calibration_pack
from mixmix.runtime.seeding import generator
from mixmix.runtime.storage import read_json, write_json
from mixmix.runtimes.float_onnx import float_onnx_bytes

QUESTION = "How does mixmix compress compare with other tools that quantize a file?"
KEY = ("model", "setting", "tool", "images", "seed", "num_test")
NETWORKS = ("bundled:mobilenetv2", "bundled:vit", "resnet20", "bundled:vovnet", "bundled:resnet")
TOOLS = ("mixmix", "onnxruntime", "nncf", "mct", "onnxruntime-entropy")
IMAGES = ("mixmix", "real", "uniform", "normal")
NUM_IMAGES = 256
PEERS = Path(__file__).with_name("from_file_parts") / "peers.py"


@dataclass(frozen=True)
class Cell:
    model: str
    setting: str
    tool: str
    images: str
    seed: int


@dataclass(frozen=True)
class Network:
    """An ONNX file, and what it does not say."""

    file: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def arguments(self) -> list[str]:
        """The network as the command line takes it."""
        mean, std = (",".join(map(str, values)) for values in (self.mean, self.std))
        return [str(self.file), "--mean", mean, "--std", std]

    def normalized(self, pixels: Tensor) -> np.ndarray:
        """Pixels (N, C, H, W) in [0, 1] as the network takes them."""
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return ((pixels - mean) / std).numpy()


def network_of(name: str, weights_dir: Path, work: Path) -> Network:
    """The network as PyTorch exports it."""
    file = work / f"{name.replace(':', '-')}.onnx"
    module, spec = load_network(name, weights_dir)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(float_onnx_bytes(module, spec.input_shape, name=name))
    return Network(file, tuple(spec.mean), tuple(spec.std))


def row_of(
    cell: Cell, network: Network, test: tuple[Tensor, Tensor], work: Path, peers_python: str
) -> dict[str, Any]:
    """Quantize a file, unless it is in the work folder, and evaluate what came of it.

    Args:
        test: pixels (N, C, H, W) in [0, 1] and labels (N,).
        peers_python: interpreter of the environment with the other tools.
    """
    folder = work / "-".join(map(str, asdict(cell).values())).replace(":", "-")
    out, about = folder / "small.onnx", folder / "about.json"
    if not about.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = command_of(cell, network, out, peers_python)
        with stopwatch() as cost:
            done = subprocess.run(command, capture_output=True, text=True)
        (folder / "log.txt").write_text(done.stdout + done.stderr)
        failed = {} if done.returncode == 0 else {"error": _last_line(done.stderr)}
        write_json(about, {"cpu_seconds": round(cost.cpu_seconds, 1)} | failed)
    row = asdict(cell) | {"task": "quantize", "num_test": len(test[1])} | read_json(about)
    if "error" not in row:
        row |= {"num_images": NUM_IMAGES, "size_bytes": out.stat().st_size}
        try:
            row |= compared(out, network, test)
        except Exception as error:  # whatever ONNX Runtime raises for a file of another tool
            row["error"] = _last_line(str(error))
    return row


def command_of(cell: Cell, network: Network, out: Path, peers_python: str) -> list[str]:
    """The process that writes the quantized file."""
    if cell.tool != "mixmix":
        inputs = out.with_name("inputs.npy")
        np.save(inputs, inputs_of(cell, network, out.parent.parent))
        command = [peers_python, str(PEERS), cell.tool, cell.setting]
        command += [str(network.file), str(inputs), str(out)]
        is_module = cell.tool == "mct" and cell.model.startswith("bundled:")
        return [*command, "--module", cell.model] if is_module else command
    command = [sys.executable, "-m", "mixmix", "compress", *network.arguments, "--out", str(out)]
    command += ["--bits", cell.setting, "--seed", str(cell.seed), "--threads", "1"]
    if cell.images == "mixmix":
        return command
    folder = out.with_name("photographs")
    folder.mkdir(exist_ok=True)
    for index, pixels in enumerate(pixels_of(cell)):
        array = (255 * pixels).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(folder / f"{index:03d}.png")
    return [*command, "--data", str(folder)]


def inputs_of(cell: Cell, network: Network, work: Path) -> np.ndarray:
    """What a tool other than mixmix calibrates with: (N, C, H, W) float32, normalized."""
    if cell.images == "normal":
        shape = load_calibration_pack().shape
        return torch.randn(shape, generator=generator(cell.seed, "normal")).numpy()
    if cell.images == "mixmix":
        name = f"{network.file.stem}-W8A8-mixmix-mixmix-{cell.seed}"
        return network.normalized(ImageSet.load(work / name / "small.mixmix" / "images").images)
    return network.normalized(pixels_of(cell))


def pixels_of(cell: Cell) -> Tensor:
    """(N, C, H, W) in [0, 1]; real ones are the same for all seeds."""
    real = load_calibration_pack()[:NUM_IMAGES]
    if cell.images == "real":
        return real
    return torch.rand(real.shape, generator=generator(cell.seed, "uniform"))


def compared(file: Path, network: Network, test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracy, agreement with the float file, and mean Kullback-Leibler divergence from it."""
    inputs = network.normalized(test[0])
    logits, floats = logits_of(file, inputs), logits_of(network.file, inputs)
    classes = logits.argmax(1)
    divergence = torch.nn.functional.kl_div(
        logits.log_softmax(1), floats.log_softmax(1), reduction="batchmean", log_target=True
    )
    return {
        "top1": 100 * float((classes == test[1]).float().mean()),
        "agreement": 100 * float((classes == floats.argmax(1)).float().mean()),
        "kl_divergence": float(divergence),
    }


def logits_of(file: Path, inputs: np.ndarray) -> Tensor:
    """(N, K), computed by ONNX Runtime with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = np.split(inputs, range(100, len(inputs), 100))
    return torch.from_numpy(np.concatenate([session.run(None, {name: x})[0] for x in parts]))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--peers-python", required=True, help="interpreter with the other tools")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="CIFAR-10, for all its test images")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--settings", default="W8A8")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--images", default=",".join(IMAGES))
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    limit_threads(1)
    os.environ["PYTHONWARNINGS"] = "ignore"
    record = Record(given.out / "result.json", QUESTION, KEY)
    test = load_cifar10(given.data) if given.data else load_evaluation_pack().tensors
    if test[0].dtype == torch.uint8:
        test = (test[0].float() / 255, test[1])
    names = {
        key: getattr(given, key).split(",") for key in ("settings", "tools", "images", "networks")
    }
    for name in names["networks"]:
        network = network_of(name, given.weights_dir, given.work)
        row = {"model": name, "task": "quantize", "setting": "float", "tool": "float"}
        row |= {"images": "float", "seed": 0, "num_test": len(test[1])}
        if row not in record:
            size = network.file.stat().st_size
            record.add(row | {"size_bytes": size} | compared(network.file, network, test))
    for seed, setting, name, tool, images in product(
        map(int, given.seeds.split(",")),
        names["settings"],
        names["networks"],
        names["tools"],
        names["images"],
    ):
        cell = Cell(name, setting, tool, images, seed)
        is_known = asdict(cell) | {"num_test": len(test[1])} in record
        if is_known or _is_repetition(cell):
            continue
        network = network_of(name, given.weights_dir, given.work)
        row = row_of(cell, network, test, given.work, given.peers_python)
        record.add(row)
        result = row.get("error") or f"{row['top1']:.2f} {row['agreement']:.2f}"
        print(*asdict(cell).values(), row["cpu_seconds"], result, flush=True)


def _is_repetition(cell: Cell) -> bool:
    """Without random draws, or of images that are no pictures."""
    if cell.tool == "mixmix":
        return cell.images == "normal"
    return cell.images == "real" and cell.seed > 0


if __name__ == "__main__":
    main()
