"""The terms of the synthesis loss; subclass ``Term`` to add your own."""

from mixmix.synthesis.terms.bn import BatchNormDistance
from mixmix.synthesis.terms.labels import CrossEntropy
from mixmix.synthesis.terms.observation import BatchObservation, MemberObservation
from mixmix.synthesis.terms.prior import L2, TotalVariation
from mixmix.synthesis.terms.similarity import Similarity
from mixmix.synthesis.terms.term import MemberTerm, PriorTerm, Term

__all__ = [
    "BatchNormDistance",
    "BatchObservation",
    "CrossEntropy",
    "L2",
    "MemberObservation",
    "MemberTerm",
    "PriorTerm",
    "Similarity",
    "Term",
    "TotalVariation",
]
