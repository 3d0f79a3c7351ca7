"""Images from pretrained networks alone: terms, mixing, the loop, and the data set it fills."""

from mixmix.synthesis.amortised import AmortisedSettings
from mixmix.synthesis.dataset import SyntheticDataset
from mixmix.synthesis.generate import generate
from mixmix.synthesis.settings import SynthesisSettings, recipe
from mixmix.synthesis.synthesize import synthesize

__all__ = [
    "AmortisedSettings",
    "SynthesisSettings",
    "SyntheticDataset",
    "generate",
    "recipe",
    "synthesize",
]
