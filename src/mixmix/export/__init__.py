"""Export of compressed models to files that run without mixmix."""

from mixmix.export.export import Artifact, export
from mixmix.export.sparse import load_sparse

__all__ = ["Artifact", "export", "load_sparse"]
