"""Sessions of the runtimes that run exported files."""
