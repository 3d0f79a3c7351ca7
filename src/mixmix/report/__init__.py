"""What a run found, for people: a page, a table in the terminal, a record on disk."""
