"""Images from pretrained networks alone: terms, mixing, the loop, and the data set it fills."""

from mixmix.data.image_set import ImageSet
from mixmix.synthesis.amortized import AmortizedSettings
from mixmix.synthesis.generate import generate
from mixmix.synthesis.settings import SynthesisSettings, recipe
from mixmix.synthesis.synthesize import synthesize

__all__ = [
    "AmortizedSettings",
    "SynthesisSettings",
    "ImageSet",
    "generate",
    "recipe",
    "synthesize",
]
