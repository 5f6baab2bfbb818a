"""The error for a setup that cannot work."""


class SetupError(ValueError):
    """Wrong input or configuration; the message is one sentence that says what to change."""
