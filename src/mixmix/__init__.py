"""Data-free compression of pretrained vision models by feature and data mixing.

``ModelSpec`` -> ``Zoo`` -> ``synthesize`` -> ``SyntheticDataset`` -> ``compress`` -> ``export`` ->
``evaluate``: every stage takes what the one before it gives.
"""

from mixmix import openmp  # noqa: F401  (before anything that imports torch)

# isort: split
from mixmix import calibration, errors
from mixmix.cifar10 import load_evaluation_pack
from mixmix.compression.augmentation import Augmentation
from mixmix.compression.batch_norm_recovery import ReestimateBatchNorm
from mixmix.compression.feature_reconstruction import ReconstructFeatures
from mixmix.compression.fine_tuning import FineTune
from mixmix.compression.fresh_images import FreshImages
from mixmix.compression.method import Compressed, LayerRecord, Method, compress
from mixmix.compression.mixed_precision import MixedPrecision
from mixmix.compression.prune import Prune
from mixmix.compression.prune_channels import PruneChannels
from mixmix.compression.quantize import Quantize
from mixmix.compression.quantize_aware import QuantizeAware
from mixmix.compression.reconstruction import ReconstructionSettings
from mixmix.compression.recovery import Recovery, recover
from mixmix.compression.sensitivity import measure_sensitivity
from mixmix.compression.sensitivity_table import SensitivityTable
from mixmix.compression.sparsity import Sparsity, sparsity_of
from mixmix.compression.training_settings import TrainingSettings
from mixmix.estimation import Estimate, estimate_accuracy
from mixmix.evaluation import Evaluation, evaluate
from mixmix.exporters import Artifact, export, load_sparse
from mixmix.synthesis import SynthesisSettings, SyntheticDataset, recipe, synthesize
from mixmix.zoo import ModelSpec, Teacher, Zoo

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Augmentation",
    "Compressed",
    "Estimate",
    "Evaluation",
    "FineTune",
    "FreshImages",
    "LayerRecord",
    "Method",
    "MixedPrecision",
    "ModelSpec",
    "Prune",
    "PruneChannels",
    "Quantize",
    "QuantizeAware",
    "ReconstructFeatures",
    "ReconstructionSettings",
    "Recovery",
    "ReestimateBatchNorm",
    "SensitivityTable",
    "Sparsity",
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
    "load_sparse",
    "measure_sensitivity",
    "recipe",
    "recover",
    "sparsity_of",
    "synthesize",
]
