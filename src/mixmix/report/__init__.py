"""Results of a run: an HTML page, tables in the terminal, a JSON record."""
