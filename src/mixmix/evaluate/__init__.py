"""Accuracy, agreement and cost of a network."""
