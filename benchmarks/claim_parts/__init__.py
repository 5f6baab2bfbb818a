"""The parts of benchmarks/claim.py: the arms and their runs, and what is concluded from them."""
