"""What runs leave behind, and what was published: read and written here. No JAX, no Hydra."""
