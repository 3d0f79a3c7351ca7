"""Data-free compression of pretrained vision models by feature and data mixing.

``ModelSpec`` -> ``Zoo`` -> ``synthesize`` -> ``SyntheticDataset`` -> ``compress`` -> ``export`` ->
``evaluate``: every stage takes what the one before it gives.
"""

from mixmix import openmp  # noqa: F401  (before anything that imports torch)

# isort: split
from mixmix import calibration, errors
from mixmix.cifar10 import load_evaluation_pack
from mixmix.compression.distillation.distill import Distill
from mixmix.compression.method import Compressed, LayerRecord, Method, compress
from mixmix.compression.pruning.prune import Prune
from mixmix.compression.pruning.prune_blocks import PruneBlocks
from mixmix.compression.pruning.prune_channels import PruneChannels
from mixmix.compression.pruning.sparsity import Sparsity, sparsity_of
from mixmix.compression.quantization.mixed_precision import MixedPrecision
from mixmix.compression.quantization.quantize import Quantize
from mixmix.compression.quantization.quantize_aware import QuantizeAware
from mixmix.compression.quantization.reconstruction import ReconstructionSettings
from mixmix.compression.quantization.sensitivity import measure_sensitivity
from mixmix.compression.quantization.sensitivity_table import SensitivityTable
from mixmix.compression.recovery.batch_norm import ReestimateBatchNorm
from mixmix.compression.recovery.features import ReconstructFeatures
from mixmix.compression.recovery.fine_tuning import FineTune
from mixmix.compression.recovery.recover import Recovery, recover
from mixmix.compression.training.augmentation import Augmentation
from mixmix.compression.training.fresh_images import FreshImages
from mixmix.compression.training.generated_images import GeneratedImages
from mixmix.compression.training.settings import TrainingSettings
from mixmix.estimation import Estimate, estimate_accuracy
from mixmix.evaluation import Evaluation, evaluate
from mixmix.exporters import Artifact, export, load_sparse
from mixmix.synthesis import (
    AmortisedSettings,
    SynthesisSettings,
    SyntheticDataset,
    generate,
    recipe,
    synthesize,
)
from mixmix.zoo import ModelSpec, Teacher, Zoo

__version__ = "0.1.0"

__all__ = [
    "AmortisedSettings",
    "Artifact",
    "Augmentation",
    "Compressed",
    "Distill",
    "Estimate",
    "Evaluation",
    "FineTune",
    "FreshImages",
    "GeneratedImages",
    "LayerRecord",
    "Method",
    "MixedPrecision",
    "ModelSpec",
    "Prune",
    "PruneBlocks",
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
    "generate",
    "load_evaluation_pack",
    "load_sparse",
    "measure_sensitivity",
    "recipe",
    "recover",
    "sparsity_of",
    "synthesize",
]
