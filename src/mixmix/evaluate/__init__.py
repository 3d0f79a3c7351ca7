"""Accuracy and agreement of networks."""
