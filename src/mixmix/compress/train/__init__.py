"""Training on synthetic images: distillation, for whatever makes the student another network."""
