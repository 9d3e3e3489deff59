"""Training and evaluation: the procedures, and what they compile and save."""
