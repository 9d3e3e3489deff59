"""What a user can do wrong."""


class ConfigError(ValueError):
    """A configuration that cannot run; the message names key, value, and what is valid."""
