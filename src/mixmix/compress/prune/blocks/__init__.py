"""Pruning of residual blocks."""
