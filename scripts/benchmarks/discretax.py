"""S4 and S5 of discretax 0.3, with the parameters of ours. Imported only where it is installed."""

import contextlib
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from discretax.sequence_mixers import S4DSequenceMixer, S5SequenceMixer

from benchmarks.lti import parts


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    """JAX's usual promotion of dtypes and ranks, which discretax counts on."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Discretax(eqx.Module):
    """A layer of discretax, called as ours are; D x is added, if the layer has none itself."""

    layer: Any
    d: jax.Array | None

    def __call__(self, x: jax.Array) -> tuple[jax.Array, None]:
        """The outputs of one sequence, without a state."""
        with _lenient():
            y = self.layer(x, jr.key(0))
        return y if self.d is None else y + self.d[None] * x, None


def s4_like(ours: Any) -> Discretax:
    """discretax's S4D that computes what ours does. It has B = 1 and holds the input over a step,
    so that C takes up our B and the ratio of the two rules."""
    channels, modes = ours.a_log.shape
    dt = jnp.exp(ours.log_dt)[:, None]
    a = ours.rates()
    z = a * dt.astype(a.dtype)
    cb = jax.lax.complex(*parts(ours.c)) * jax.lax.complex(*parts(ours.b))
    with _lenient():
        layer = S4DSequenceMixer(channels, jr.key(0), state_dim=2 * modes)
    parameters = (cb * z / (jnp.exp(z) - 1), ours.log_dt, jnp.log(-a.real), a.imag)
    return Discretax(
        eqx.tree_at(
            lambda m: (m.kernel.C, m.kernel.log_dt, m.kernel.log_a_real, m.kernel.A_imag),
            layer,
            parameters,
        ),
        ours.d,
    )


def s5_like(ours: Any) -> Discretax:
    """discretax's S5 with our parameters."""
    modes, channels, _ = ours.b.shape
    with _lenient():
        layer = S5SequenceMixer(channels, jr.key(0), state_dim=2 * modes)
    a = ours.rates()
    parameters = (a.real, a.imag, ours.b, ours.c, ours.d, ours.log_dt[:, None])
    return Discretax(
        eqx.tree_at(
            lambda m: (m.Lambda_re, m.Lambda_im, m.B, m.C, m.D, m.log_step), layer, parameters
        ),
        None,
    )
