"""What `scripts/reproduce.py` runs, and in which order; one module a part."""
