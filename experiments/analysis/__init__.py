"""Verdicts, tables, figures and plans of studies, made from results alone. No JAX, no Hydra."""
