"""Data-free compression of pretrained vision models by feature and data mixing.

``load`` or ``Zoo`` -> ``synthesize`` -> ``ImageSet`` -> ``compress`` -> ``export`` -> ``evaluate``:
each step takes the result of the previous one. Names are imported at their first use.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mixmix._version import __version__

if TYPE_CHECKING:
    from mixmix import errors
    from mixmix.compress.compress import compress
    from mixmix.compress.distill.distill import Distill
    from mixmix.compress.method import Compressed, LayerRecord, Method
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
    from mixmix.compress.train.generated_images import GeneratedImages
    from mixmix.compress.train.settings import TrainingSettings
    from mixmix.data import loaders
    from mixmix.data.image_set import ImageSet
    from mixmix.data.images import as_image_set
    from mixmix.demo.cifar10 import load_evaluation_pack
    from mixmix.evaluate.estimation import Estimate, estimate_accuracy
    from mixmix.evaluate.evaluation import Evaluation, evaluate
    from mixmix.export import Artifact, export, load_sparse
    from mixmix.models.loading import load
    from mixmix.models.model import Model
    from mixmix.models.spec import ModelSpec
    from mixmix.models.zoo import Zoo
    from mixmix.synthesis import terms
    from mixmix.synthesis.amortized_settings import AmortizedSettings
    from mixmix.synthesis.generate import generate
    from mixmix.synthesis.recipes import recipe
    from mixmix.synthesis.settings import SynthesisSettings
    from mixmix.synthesis.synthesize import synthesize

# The module of each name, as in the imports above (a test compares them).
_HOMES = {
    "compress.compress": "compress",
    "compress.distill.distill": "Distill",
    "compress.method": "Compressed LayerRecord Method",
    "compress.prune.blocks.prune_blocks": "PruneBlocks",
    "compress.prune.channels.prune_channels": "PruneChannels",
    "compress.prune.weights.prune": "Prune",
    "compress.prune.weights.sparsity": "Sparsity sparsity_of",
    "compress.quantize.mixed_precision": "MixedPrecision",
    "compress.quantize.quantize": "Quantize",
    "compress.quantize.quantize_aware": "QuantizeAware",
    "compress.quantize.reconstruction": "ReconstructionSettings",
    "compress.quantize.sensitivity": "measure_sensitivity",
    "compress.quantize.sensitivity_table": "SensitivityTable",
    "compress.recover.batch_norm": "ReestimateBatchNorm",
    "compress.recover.features": "ReconstructFeatures",
    "compress.recover.fine_tuning": "FineTune",
    "compress.recover.recover": "Recovery recover",
    "compress.train.augmentation": "Augmentation",
    "compress.train.generated_images": "GeneratedImages",
    "compress.train.settings": "TrainingSettings",
    "data.image_set": "ImageSet",
    "data.images": "as_image_set",
    "demo.cifar10": "load_evaluation_pack",
    "evaluate.estimation": "Estimate estimate_accuracy",
    "evaluate.evaluation": "Evaluation evaluate",
    "export": "Artifact export load_sparse",
    "models.loading": "load",
    "models.model": "Model",
    "models.spec": "ModelSpec",
    "models.zoo": "Zoo",
    "synthesis.amortized_settings": "AmortizedSettings",
    "synthesis.generate": "generate",
    "synthesis.recipes": "recipe",
    "synthesis.settings": "SynthesisSettings",
    "synthesis.synthesize": "synthesize",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}
_MODULES = {"errors": "errors", "loaders": "data.loaders", "terms": "synthesis.terms"}

__all__ = [
    "AmortizedSettings",
    "Artifact",
    "Augmentation",
    "Compressed",
    "Distill",
    "Estimate",
    "Evaluation",
    "FineTune",
    "GeneratedImages",
    "ImageSet",
    "LayerRecord",
    "Method",
    "MixedPrecision",
    "Model",
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
    "TrainingSettings",
    "Zoo",
    "__version__",
    "as_image_set",
    "compress",
    "errors",
    "estimate_accuracy",
    "evaluate",
    "export",
    "generate",
    "load",
    "load_evaluation_pack",
    "load_sparse",
    "loaders",
    "measure_sensitivity",
    "recipe",
    "recover",
    "sparsity_of",
    "synthesize",
    "terms",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(f"mixmix.{_MODULES[name]}")
    elif name in _HOME_OF:
        value = getattr(import_module(f"mixmix.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'mixmix' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps functions such as ``compress`` when a subpackage of the same name is imported.

    The import system then assigns the subpackage to this name, which is ignored here.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME_OF and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
