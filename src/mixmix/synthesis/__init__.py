"""Images from pretrained networks alone: terms, mixing, the loop, and the data set it fills."""

from mixmix.data.image_set import ImageSet
from mixmix.synthesis import terms
from mixmix.synthesis.amortized_settings import AmortizedSettings
from mixmix.synthesis.generate import generate
from mixmix.synthesis.recipes import recipe
from mixmix.synthesis.settings import SynthesisSettings
from mixmix.synthesis.synthesize import synthesize
from mixmix.synthesis.terms.term import Term

__all__ = [
    "AmortizedSettings",
    "SynthesisSettings",
    "ImageSet",
    "Term",
    "generate",
    "recipe",
    "synthesize",
    "terms",
]
