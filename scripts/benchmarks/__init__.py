"""What `scripts/benchmark.py` can measure: one module a subject, each with functions () → rows."""
