"""Sessions that run exported files, and their latency."""
