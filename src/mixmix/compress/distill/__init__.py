"""Distillation: a student of any architecture learns what a network, or a whole zoo, does."""
