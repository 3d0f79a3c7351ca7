"""Sources of models: one ``Source`` for each kind of reference."""

from mixmix.models.sources.imagenet import imagenet_names
from mixmix.models.sources.registry import (
    complete,
    describe_references,
    find_source,
    sources,
    split_reference,
)
from mixmix.models.sources.source import Source, check_pretrained

__all__ = [
    "Source",
    "check_pretrained",
    "complete",
    "describe_references",
    "find_source",
    "imagenet_names",
    "sources",
    "split_reference",
]
