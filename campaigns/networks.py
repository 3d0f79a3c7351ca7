"""Does compression of networks from timm and torchvision give what they compute, or say why not?

``python campaigns/networks.py --runs 60 --seed 0 --out DIR``

Every network has random weights, BatchNorm statistics of a few forward passes, and the smallest
images that it takes. It is quantized to W8A8 and loses 30% of its MACs by channels; both are
exported to ONNX (at 8 bits, files for size and for speed are the same) and to ``.pt2``. Each result
is compared in values, by runtimes that do not use mixmix where there are any. Each network runs in
a process of its own; finished networks are kept in DIR, so that a run resumes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from campaigns.rows import Tally, finish
from mixmix.runtime.storage import write_json

QUESTION = "Does compression of networks from elsewhere give what they compute, or say why not?"
_FAULTS = {
    "wrong": "silent_wrong",
    "traceback": "tracebacks",
    "crash": "tracebacks",
    "hang": "hangs",
}
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
    "swin_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2",
)  # fmt: skip
TIMEOUT = 1800
MAX_PARAMETERS = 40_000_000


def choose(runs: int, seed: int) -> list[str]:
    """Names of networks: two thirds from modules of timm, one third from torchvision."""
    import timm

    draw = random.Random(seed)
    modules = sorted(timm.list_modules())
    draw.shuffle(modules)
    names = []
    for module in modules:
        models = sorted(timm.list_models(module=module))
        if models:
            name, parameters = _small(draw.sample(models, min(6, len(models))))
            names += [f"timm:{name}"] if parameters < MAX_PARAMETERS else []
    num_torchvision = min(len(TORCHVISION), runs // 3)
    chosen = [f"torchvision:{name}" for name in draw.sample(TORCHVISION, num_torchvision)]
    chosen += names[: runs - len(chosen)]
    draw.shuffle(chosen)
    return chosen


def _small(models: list[str]) -> tuple[str, int]:
    """The model with the fewest parameters, and their number; built without memory for them."""
    import timm
    import torch

    def parameters(name: str) -> int:
        try:
            with torch.device("meta"):
                model = timm.create_model(name, pretrained=False)
        except Exception:
            return sys.maxsize
        return sum(each.numel() for each in model.parameters())

    count, name = min((parameters(name), name) for name in models)
    return name, count


def main() -> int:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = _names(arguments)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda name: run_apart(name, arguments.seed, arguments.out), names))
    steps = [(result["network"], step) for result in results for step in result["steps"]]
    write_json(arguments.out / "networks.json", {"networks": results})
    tally = Tally("networks", arguments.seed, len(steps))
    for name, step in steps:
        if step["outcome"] in _FAULTS:
            tally.fault(_FAULTS[step["outcome"]], f"{name} {step['step']}: {step.get('why', '')}")
    print(dict(Counter(step["outcome"] for _, step in steps)))
    return finish(QUESTION, [tally], arguments.out / "result.json")


def _names(arguments: argparse.Namespace) -> list[str]:
    if arguments.only:
        return arguments.only.split(",")
    chosen = arguments.out / f"chosen-{arguments.runs}-{arguments.seed}.json"
    if not chosen.exists():
        chosen.write_text(json.dumps(choose(arguments.runs, arguments.seed)))
    return json.loads(chosen.read_text())


def run_apart(name: str, seed: int, out: Path) -> dict:
    """The steps of one network, each ok, refused (with its reason), wrong, crashed or hung."""
    path = out / f"{name.replace(':', '-').replace('/', '-')}.jsonl"
    if not path.exists() or '"end"' not in path.read_text():
        path.write_text("")
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("one_network.py"))]
        command += [name, str(seed), str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            ended = f"exit {done.returncode}: {done.stderr[-2000:]}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            ended = "hang"
        with path.open("a") as file:
            if ended:
                outcome = "hang" if ended == "hang" else "crash"
                file.write(json.dumps({"step": "process", "outcome": outcome, "why": ended}) + "\n")
            file.write(json.dumps({"step": "end", "outcome": "end"}) + "\n")
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [step for step in steps if step["step"] != "end"]
    for step in steps:
        if step["outcome"] not in ("ok", "refused"):
            print(name, step["step"], step["outcome"], step.get("why", "")[-300:], flush=True)
    print(name, " ".join(f"{s['step']}={s['outcome']}" for s in steps), flush=True)
    return {"network": name, "steps": steps}


if __name__ == "__main__":
    sys.exit(main())
