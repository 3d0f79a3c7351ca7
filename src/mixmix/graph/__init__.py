"""All that knows PyTorch graphs."""
