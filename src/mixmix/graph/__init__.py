"""Analysis and rewriting of PyTorch graphs."""
