"""Quantization of images of a usual size stays within its budget of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

NUM_IMAGES, BUDGET_GIB = 256, 0.5

PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import torch
from torchvision.models import resnet18
from mixmix import ModelSpec, Quantize, ImageSet, Model, compress
from mixmix.compress.quantize.reconstruction import ReconstructionSettings

def anonymous_gib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**20

torch.set_num_threads(1)
torch.manual_seed(0)
num_images, budget = int(sys.argv[1]), float(sys.argv[2])
spec = ModelSpec.from_dict({
    "name": "resnet18", "source": "module", "input_shape": (3, 224, 224), "mean": (0.5,) * 3,
    "std": (0.25,) * 3, "num_classes": 1000, "label_set": "imagenet",
})
teacher = Model(resnet18().eval(), spec)
images = torch.rand(num_images, 3, 224, 224)
labels = torch.zeros(num_images, dtype=torch.int64)
data = ImageSet(images, labels, torch.full((num_images, 1000), 1e-3), {})
before = peak = anonymous_gib()
def watch():
    global peak
    while True:
        peak = max(peak, anonymous_gib())
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
settings = ReconstructionSettings(iterations=2)
method = Quantize("W4A4", memory_gib=budget, reconstruction=settings)
compress(teacher, data, method, seed=0)
print(json.dumps({"before_gib": before, "peak_gib": peak}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells")
def test_the_budget_holds_at_224_pixels() -> None:
    pytest.importorskip("torchvision")
    command = [sys.executable, "-c", PROGRAM, str(NUM_IMAGES), str(BUDGET_GIB)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    # Four tensors of the stem's outputs alone are 3.2 GB.
    assert found["peak_gib"] - found["before_gib"] < BUDGET_GIB, found
