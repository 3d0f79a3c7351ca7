"""Pretrained networks: their specs, loading, and observation."""

from mixmix.models.loading import load
from mixmix.models.model import Model
from mixmix.models.references import build_model, load_model, load_spec
from mixmix.models.spec import ModelSpec
from mixmix.models.zoo import Zoo

__all__ = [
    "ModelSpec",
    "Model",
    "Zoo",
    "build_model",
    "load",
    "load_model",
    "load_spec",
]
