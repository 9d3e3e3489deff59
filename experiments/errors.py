"""What a user can do wrong, and what can go wrong without them."""


class ConfigError(ValueError):
    """A configuration that cannot run; the message names key, value, and what is valid."""


class NonFiniteError(RuntimeError):
    """A loss or gradient became infinite or NaN; the message says at which step of which seeds."""
