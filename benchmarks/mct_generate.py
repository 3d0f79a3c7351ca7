"""Images of model-compression-toolkit's data generation, at its default settings.

Run by the interpreter of an environment that has ``model-compression-toolkit``, ``torchvision``
and ``safetensors``; ``speed.py --mct-python`` does so.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from importlib.metadata import version
from pathlib import Path

import model_compression_toolkit as mct
import numpy as np
import torch
from cifar_resnet import CifarResNet
from safetensors.torch import load_file, save_file

# The toolkit's own normalisation, which is also that of the checkpoints.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors of images")
    parser.add_argument("--num-images", type=int, default=256)
    parser.add_argument("--iterations", type=int, help="default: the toolkit's")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(arguments.seed)
    model = CifarResNet(arguments.depth)
    model.load_state_dict(load_file(arguments.weights))
    changes = {} if arguments.iterations is None else {"n_iter": arguments.iterations}
    config = mct.data_generation.get_pytorch_data_generation_config(**changes)
    cpu, wall = cpu_seconds(), time.perf_counter()
    batches = mct.data_generation.pytorch_data_generation_experimental(
        model=model.eval(),
        n_images=arguments.num_images,
        output_image_size=32,
        data_generation_config=config,
    )
    cost = {
        "cpu_seconds": cpu_seconds() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "iterations": config.n_iter,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("model-compression-toolkit", "torch")},
    }
    normalised = torch.cat([batch.reshape(-1, 3, 32, 32).detach().cpu() for batch in batches])
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    pixels = (normalised * std + mean).clamp(0, 1).float().contiguous()
    arguments.out.with_suffix(".json").write_text(json.dumps(cost))
    save_file({"images": pixels}, arguments.out)


if __name__ == "__main__":
    main()
