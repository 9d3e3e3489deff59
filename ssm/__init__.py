"""Sequence models as linear controlled differential equations, dZ = Σ_i A_i Z dω^i + B dξ.

Everything here is mathematics: layers take ONE example (no batch axis) and know nothing of tasks,
training, or configuration. Batches and seeds are the caller's `jax.vmap`.
"""
