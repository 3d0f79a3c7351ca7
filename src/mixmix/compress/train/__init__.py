"""Training on synthetic images by distillation from a teacher."""
