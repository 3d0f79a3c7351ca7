"""Recovery of a pruned network from the network that it was made from."""

from mixmix.compress.recover.recover import Recovery, RecoveryContext, UnitStep, iterate_units

__all__ = ["Recovery", "RecoveryContext", "UnitStep", "iterate_units"]
