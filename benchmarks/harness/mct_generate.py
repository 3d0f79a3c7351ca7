"""Images of model-compression-toolkit's data generation, at its default settings.

Run by the interpreter of an environment that has ``model-compression-toolkit`` and mixmix;
``harness.mct.make_images`` does so.
"""

from __future__ import annotations

import argparse
import random
import sys
from importlib.metadata import version
from pathlib import Path

import model_compression_toolkit as mct
import numpy as np
import torch

# Run as a script, it finds the harness beside its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.clocks import stopwatch
from harness.networks import load_network
from mixmix.runtime.storage import write_json, write_tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", required=True)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file for the images")
    parser.add_argument("--num-images", type=int, default=256)
    parser.add_argument("--iterations", type=int, help="default: that of the toolkit")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(arguments.seed)
    model, spec = load_network(arguments.network, arguments.weights_dir)
    changes = {} if arguments.iterations is None else {"n_iter": arguments.iterations}
    config = mct.data_generation.get_pytorch_data_generation_config(**changes)
    with stopwatch() as cost:
        batches = mct.data_generation.pytorch_data_generation_experimental(
            model=model.eval(),
            n_images=arguments.num_images,
            output_image_size=spec.input_shape[1:],
            data_generation_config=config,
        )
    normalized = torch.cat([b.detach().cpu().reshape(-1, *spec.input_shape) for b in batches])
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    pixels = (normalized * std + mean).clamp(0, 1).float().contiguous()
    about = {
        "cpu_seconds": cost.cpu_seconds,
        "wall_seconds": cost.wall_seconds,
        "iterations": config.n_iter,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("model-compression-toolkit", "torch")},
        "zoo": [spec.name],
    }
    write_tensors(arguments.out, {"images": pixels})
    write_json(arguments.out.with_suffix(".json"), about)


if __name__ == "__main__":
    main()
