"""Data-free compression of pretrained vision models by feature and data mixing.

``ModelSpec`` -> ``Zoo`` -> ``synthesize`` -> ``SyntheticDataset`` -> ``compress`` -> ``export`` ->
``evaluate``: every stage takes what the one before it gives.
"""

from mixmix import openmp  # noqa: F401  (before anything that imports torch)

# isort: split
from mixmix import calibration, errors
from mixmix.cifar10 import load_evaluation_pack
from mixmix.compression.augmentation import Augmentation
from mixmix.compression.fresh_images import FreshImages
from mixmix.compression.method import Compressed, LayerRecord, Method, compress
from mixmix.compression.mixed_precision import MixedPrecision
from mixmix.compression.prune_channels import PruneChannels
from mixmix.compression.quantize import Quantize
from mixmix.compression.quantize_aware import QuantizeAware
from mixmix.compression.reconstruction import ReconstructionSettings
from mixmix.compression.sensitivity import measure_sensitivity
from mixmix.compression.sensitivity_table import SensitivityTable
from mixmix.compression.training_settings import TrainingSettings
from mixmix.estimation import Estimate, estimate_accuracy
from mixmix.evaluation import Evaluation, evaluate
from mixmix.exporters import Artifact, export
from mixmix.synthesis import SynthesisSettings, SyntheticDataset, recipe, synthesize
from mixmix.zoo import ModelSpec, Teacher, Zoo

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Augmentation",
    "Compressed",
    "Estimate",
    "Evaluation",
    "FreshImages",
    "LayerRecord",
    "Method",
    "MixedPrecision",
    "ModelSpec",
    "PruneChannels",
    "Quantize",
    "QuantizeAware",
    "ReconstructionSettings",
    "SensitivityTable",
    "SynthesisSettings",
    "SyntheticDataset",
    "Teacher",
    "TrainingSettings",
    "Zoo",
    "calibration",
    "compress",
    "errors",
    "estimate_accuracy",
    "evaluate",
    "export",
    "load_evaluation_pack",
    "measure_sensitivity",
    "recipe",
    "synthesize",
]
