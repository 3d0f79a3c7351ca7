"""Facts on the installation: versions, extras, processor, memory, devices, and a small run."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from mixmix._version import __version__
from mixmix.compress.compress import compress
from mixmix.errors import MixmixWarning, first_line
from mixmix.evaluate.evaluation import evaluate
from mixmix.export import export
from mixmix.models.loading import load
from mixmix.report.record import describe_versions
from mixmix.runtime.compiled import has_compiler
from mixmix.runtime.devices import available_devices
from mixmix.runtime.machine import memory_bytes, usable_cpus
from mixmix.synthesis.recipes import recipe
from mixmix.synthesis.synthesize import synthesize

__all__ = ["installation"]

_EXTRAS = ("onnx", "onnxruntime", "onnx2torch", "timm", "torchvision", "transformers", "openvino")
_CPU_FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "AVX-VNNI"}
_CPU_FLAGS |= {"avx512_bf16": "BF16", "amx_int8": "AMX"}


def installation() -> dict[str, Any]:
    """Names and values; those of what does not work start with FAILED."""
    extras = {name: importlib.util.find_spec(name) is not None for name in _EXTRAS}
    memory = memory_bytes()
    return {
        "mixmix": __version__,
        "python": platform.python_version(),
        **describe_versions(),
        "installed": ", ".join(name for name, found in extras.items() if found),
        "not installed": ", ".join(name for name, found in extras.items() if not found) or None,
        "threads": f"{torch.get_num_threads()} of {usable_cpus()} processors",
        "processor features": ", ".join(_cpu_features()) or "unknown",
        "compiler": "yes" if has_compiler() else "none: synthesis is slower; install g++",
        "memory": None if memory is None else f"{memory / 2**30:.1f} GiB",
        "devices": ", ".join(map(_device, available_devices())),
        "cache": _cache(),
        "small run": _small_run(),
    }


def _cpu_features() -> list[str]:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].splitlines()[0].split())
    except (OSError, IndexError):
        return [torch.backends.cpu.get_cpu_capability()]
    return [title for flag, title in _CPU_FLAGS.items() if flag in flags]


def _device(name: str) -> str:
    return f"{name} ({torch.cuda.get_device_name(name)})" if name.startswith("cuda") else name


def _cache() -> str:
    """Whether the folder that weights are downloaded to can be written."""
    folder = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    above = next(each for each in (folder, *folder.parents) if each.exists())
    if os.access(above, os.W_OK):
        return f"{folder} is writable"
    return f"FAILED: {folder} is not writable; set HF_HOME to a folder that is"


def _small_run() -> str:
    """Images of a bundled network, quantization, export and evaluation, in a few seconds."""
    start = time.perf_counter()
    settings = recipe("mixmix", num_images=32, batch_size=32, iterations=2)
    try:
        model = load("bundled:vgg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MixmixWarning)  # images of two iterations are poor
            images = synthesize(model, settings)
        with tempfile.TemporaryDirectory() as folder:
            small = export(compress(model, images, "W8A8"), Path(folder) / "small.onnx")
            found = evaluate(small, (images.images, images.labels), reference=model)
    except Exception as error:  # whatever is wrong with an installation
        return f"FAILED: {type(error).__name__}: {first_line(error)}"
    seconds = time.perf_counter() - start
    return f"ok in {seconds:.0f} s (images, W8A8, ONNX; agreement {found.agreement:.0f}%)"
