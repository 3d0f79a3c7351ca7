"""Data-free compression of pretrained vision models by feature and data mixing.

``ModelSpec`` -> ``Zoo`` -> ``synthesize`` -> ``SyntheticDataset`` -> ``compress`` -> ``export`` ->
``evaluate``: every stage takes what the one before it gives.
"""

from mixmix import openmp  # noqa: F401  (before anything that imports torch)

# isort: split
from mixmix import errors
from mixmix.cifar10 import load_evaluation_pack
from mixmix.compression.method import Compressed, LayerRecord, Method, compress
from mixmix.compression.quantize import Quantize
from mixmix.evaluation import Evaluation, evaluate
from mixmix.exporters import Artifact, export
from mixmix.synthesis import SynthesisSettings, SyntheticDataset, recipe, synthesize
from mixmix.zoo import ModelSpec, Teacher, Zoo

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Compressed",
    "Evaluation",
    "LayerRecord",
    "Method",
    "ModelSpec",
    "Quantize",
    "SynthesisSettings",
    "SyntheticDataset",
    "Teacher",
    "Zoo",
    "compress",
    "errors",
    "evaluate",
    "export",
    "load_evaluation_pack",
    "recipe",
    "synthesize",
]
