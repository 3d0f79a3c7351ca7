"""Pretrained networks: what is known of them, how they are loaded, and how they are observed."""

from mixmix.zoo.catalog import bundled_members, bundled_names, bundled_spec
from mixmix.zoo.loading import build_model, load_model, load_spec
from mixmix.zoo.spec import ModelSpec
from mixmix.zoo.teacher import Teacher
from mixmix.zoo.zoo import Zoo

__all__ = [
    "ModelSpec",
    "Teacher",
    "Zoo",
    "build_model",
    "bundled_members",
    "bundled_names",
    "bundled_spec",
    "load_model",
    "load_spec",
]
