"""Pruning of weights, channels and residual blocks."""
