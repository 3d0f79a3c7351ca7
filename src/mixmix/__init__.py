"""Data-free compression of pretrained vision models by feature and data mixing.

``ModelSpec`` -> ``Zoo`` -> ``synthesize`` -> ``ImageSet`` -> ``compress`` -> ``export`` ->
``evaluate``: every stage takes what the one before it gives.
"""

from mixmix.runtime import openmp  # noqa: F401  (before anything that imports torch)

# isort: split
from mixmix import errors
from mixmix._version import __version__
from mixmix.compress.distill.distill import Distill
from mixmix.compress.method import Compressed, LayerRecord, Method, compress
from mixmix.compress.prune.blocks.prune_blocks import PruneBlocks
from mixmix.compress.prune.channels.prune_channels import PruneChannels
from mixmix.compress.prune.weights.prune import Prune
from mixmix.compress.prune.weights.sparsity import Sparsity, sparsity_of
from mixmix.compress.quantize.mixed_precision import MixedPrecision
from mixmix.compress.quantize.quantize import Quantize
from mixmix.compress.quantize.quantize_aware import QuantizeAware
from mixmix.compress.quantize.reconstruction import ReconstructionSettings
from mixmix.compress.quantize.sensitivity import measure_sensitivity
from mixmix.compress.quantize.sensitivity_table import SensitivityTable
from mixmix.compress.recover.batch_norm import ReestimateBatchNorm
from mixmix.compress.recover.features import ReconstructFeatures
from mixmix.compress.recover.fine_tuning import FineTune
from mixmix.compress.recover.recover import Recovery, recover
from mixmix.compress.train.augmentation import Augmentation
from mixmix.compress.train.fresh_images import FreshImages
from mixmix.compress.train.generated_images import GeneratedImages
from mixmix.compress.train.settings import TrainingSettings
from mixmix.data import calibration
from mixmix.demo.cifar10 import load_evaluation_pack
from mixmix.evaluate.estimation import Estimate, estimate_accuracy
from mixmix.evaluate.evaluation import Evaluation, evaluate
from mixmix.export import Artifact, export, load_sparse
from mixmix.models import Model, ModelSpec, Zoo
from mixmix.synthesis import (
    AmortizedSettings,
    ImageSet,
    SynthesisSettings,
    generate,
    recipe,
    synthesize,
    terms,
)

__all__ = [
    "AmortizedSettings",
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
    "ImageSet",
    "Model",
    "TrainingSettings",
    "Zoo",
    "__version__",
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
    "terms",
]
