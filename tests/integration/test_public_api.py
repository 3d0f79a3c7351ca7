from __future__ import annotations

import subprocess
import sys

import mixmix


def test_every_export_exists_and_is_listed_in_order() -> None:
    assert len(set(mixmix.__all__)) == len(mixmix.__all__)
    assert all(hasattr(mixmix, name) for name in mixmix.__all__)


def test_importing_loads_nothing_that_only_some_tasks_need() -> None:
    heavy = [
        "scipy.optimize",
        "torch_pruning",
        "onnx",
        "onnx_ir",
        "onnxruntime",
        "onnxscript",
        "matplotlib",
        "jinja2",
        "rich",
        "rich_click",
    ]
    code = f"import sys, mixmix; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_are_builtins_too() -> None:
    assert issubclass(mixmix.errors.InputError, ValueError)
    assert issubclass(mixmix.errors.DataError, mixmix.errors.InputError)
    assert issubclass(mixmix.errors.CaptureError, mixmix.errors.InputError)
    assert issubclass(mixmix.errors.ExportError, RuntimeError)
