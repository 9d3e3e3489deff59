"""What `scripts/compare.py` compares, each part in a file of its own."""
