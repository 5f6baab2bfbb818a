"""DiVE-k for verl: reinforcement learning that tells look-alike image classes apart."""

__version__ = "0.1.0"
