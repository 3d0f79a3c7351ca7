"""Synthesis of images from pretrained networks."""
