"""The machine: memory, threads, files, processes."""
