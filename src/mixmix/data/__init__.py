"""Image sets and image transformations."""
