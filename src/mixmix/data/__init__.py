"""Sets of images, and what is done to pixels."""
