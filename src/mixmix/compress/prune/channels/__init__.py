"""Pruning of whole channels."""
