"""From a compressed model to a file that runs without mixmix and without PyTorch."""

from mixmix.export.export import Artifact, export
from mixmix.export.sparse import load_sparse

__all__ = ["Artifact", "export", "load_sparse"]
