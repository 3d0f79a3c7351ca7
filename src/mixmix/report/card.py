"""The model card of a file."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixmix._display import printable
from mixmix._version import __version__
from mixmix.compress.method import Compressed
from mixmix.report.summary import summary_lines
from mixmix.runtime.storage import write_atomic

__all__ = ["write_card"]

# Pixels as the file takes them, by the type of its input and whether channels are last.
_IMAGES = {
    ("float32", False): "images = ((pixels / 255 - mean) / std).astype(np.float32)"
    ".transpose(0, 3, 1, 2)",
    ("uint8", False): "images = pixels.transpose(0, 3, 1, 2)",
    ("uint8", True): "images = pixels",
}
_RUN = {
    ".onnx": """import json
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{file}")
about = session.get_modelmeta().custom_metadata_map
mean, std, (height, width) = (json.loads(about[key]) for key in ("mean", "std", "crop"))
photo = ImageOps.fit(Image.open("photo.jpg").convert("{mode}"), (width, height))
pixels = np.asarray(photo).reshape(1, height, width, -1)
{images}
output = session.run(None, {{"images": images}})[0]
print(output[0].argmax(), output.shape)
""",
    ".pt2": """import torch
import torchao.quantization.pt2e  # operators of the file

model = torch.export.load("{file}").module()
""",
    ".safetensors": """import mixmix

state_dict = mixmix.load_sparse("{file}")
""",
}


def write_card(
    path: Path, file: Path, facts: Mapping[str, Any], compressed: Compressed, *, command: str
) -> Path:
    """Write what a file is, what it comes from, what it costs and how to run it, in Markdown.

    Args:
        path: of the card.
        file: that it is about.
        facts: of the run, by section.
        compressed: the network in the file.
        command: that wrote the file.
    """
    spec, export = compressed.spec, facts["export"]
    takes = export.get("input", {"shape": [1, *spec.input_shape], "dtype": "float32"})
    channels_last = takes["shape"][1:] != list(spec.input_shape)
    run = _RUN[file.suffix].format(
        file=file.name,
        mode="L" if spec.input_shape[0] == 1 else "RGB",
        images=_IMAGES[takes["dtype"], channels_last],
    )
    if takes["dtype"] == "uint8":
        text = "RGB images as bytes; the file normalizes them itself."
    else:
        text = f"images / 255, minus {_numbers(spec.mean)}, divided by {_numbers(spec.std)}."
    about = {
        "network": _plain(spec.name),
        "source": _plain(spec.source),
        "license": _plain(spec.license or "not stated by the source"),
        "SHA-256 of the weights": spec.sha256,
        "compressed by": f"mixmix {__version__}, without the training data",
        "classes": spec.num_classes,
        "input": f"{takes['shape']}, {takes['dtype']}: {text}",
    }
    lines = [
        *("---", f"license: {json.dumps(spec.license or 'other')}"),
        *("library_name: onnx" if file.suffix == ".onnx" else "library_name: pytorch", "---"),
        *("", f"# {file.name}", ""),
        *(f"- {name}: {printable(str(value))}" for name, value in about.items()),
        *("", "## Results", "", "```text", *summary_lines(facts, (), ""), "```"),
        *("", "The loss is estimated without labels, not measured; see docs/evaluation.md."),
        *("", "## How to run it", "", "```python", run.rstrip(), "```"),
        *("", "## How it was made", "", "```text", command, "```"),
        *("", "```json", json.dumps(list(compressed.settings), indent=1), "```", ""),
    ]
    write_atomic(path, "\n".join(lines).encode())
    return path


def _plain(text: str) -> str:
    """Text from a file, without markup."""
    return re.sub(r"([\[\]`])", r"\\\1", html.escape(text, quote=False))


def _numbers(values: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in values) + "]"
