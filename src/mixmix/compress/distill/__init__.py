"""Distillation of a network, or of a zoo, into a student of any architecture."""
