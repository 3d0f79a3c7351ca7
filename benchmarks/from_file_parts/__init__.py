"""Parts of ``from_file.py``."""
