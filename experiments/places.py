"""Where configurations and published tables are, in a checkout or in an installed package."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def _data(in_checkout: str, installed: str) -> Path:
    folder = _HERE.parent / in_checkout
    # An installed package has its own copy; beside it, in site-packages, a `configs` is another's.
    return _HERE / installed if (_HERE / installed).is_dir() else folder


CONFIGS = _data("configs", "_configs")
"""The Hydra configurations."""

PUBLISHED = _data("results/published", "_published")
"""The tables of what the paper published."""
