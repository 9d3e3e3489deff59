"""What `scripts/figures.py` draws: one module a figure, and what they share."""

import matplotlib

matplotlib.use("Agg")
