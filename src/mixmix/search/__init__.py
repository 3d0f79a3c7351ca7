"""Searches for the smallest or fastest file within limits on its loss and its size."""

from mixmix.search.limits import Limits, parse_size
from mixmix.search.search import SearchResult, SearchStep, search
from mixmix.search.size import SizeFitting
from mixmix.search.sweep import SweepRow, sweep

__all__ = [
    "Limits",
    "SearchResult",
    "SearchStep",
    "SizeFitting",
    "SweepRow",
    "parse_size",
    "search",
    "sweep",
]
