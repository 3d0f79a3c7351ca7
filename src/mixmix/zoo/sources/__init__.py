"""Where models come from: each kind of reference is a ``Source``."""

from mixmix.zoo.sources.imagenet import imagenet_names
from mixmix.zoo.sources.references import (
    REFERENCES,
    complete,
    find_source,
    is_reference,
    split_reference,
)
from mixmix.zoo.sources.source import Source

__all__ = [
    "REFERENCES",
    "Source",
    "complete",
    "find_source",
    "imagenet_names",
    "is_reference",
    "split_reference",
]
