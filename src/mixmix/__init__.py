"""Data-free compression of pretrained vision models by feature and data mixing.

``ModelSpec`` -> ``Zoo`` -> ``synthesize`` -> ``SyntheticDataset`` -> ``compress`` -> ``export`` ->
``evaluate``: every stage takes what the one before it gives.
"""

from mixmix import errors
from mixmix.compression.method import Compressed, LayerRecord, Method, compress
from mixmix.synthesis import SyntheticDataset, SynthesisSettings, recipe, synthesize
from mixmix.zoo import ModelSpec, Teacher, Zoo

__version__ = "0.1.0"

__all__ = [
    "Compressed",
    "LayerRecord",
    "Method",
    "ModelSpec",
    "SynthesisSettings",
    "SyntheticDataset",
    "Teacher",
    "Zoo",
    "compress",
    "errors",
    "recipe",
    "synthesize",
]
