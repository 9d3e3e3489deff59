"""Strictness for every test: no silent promotion of dtypes or ranks, and float64 on request."""

import os

os.environ.setdefault("WANDB_MODE", "disabled")

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Runs a test in float64, for oracles that must agree to many digits."""
    with jax.enable_x64(True):
        yield
