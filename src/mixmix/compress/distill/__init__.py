"""Distillation of a network into a student of any architecture."""
