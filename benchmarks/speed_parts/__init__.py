"""The parts of ``benchmarks/speed.py``, each a generator of rows."""
