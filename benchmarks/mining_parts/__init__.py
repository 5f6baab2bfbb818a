"""The parts of benchmarks/mining.py, one file a question."""
