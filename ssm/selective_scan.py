"""The selective scan of Mamba (S6): a diagonal recurrence whose Δ, B and C depend on the input.

    h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t,      y_t = C_t · h_t + D x_t

for each of d_model channels, with d_state numbers of state a channel (Gu and Dao, 2023, §3). As a
linear CDE: ω = ∫ Δ ds and ξ = ∫ Δ x ds, per channel.

The states of a sequence longer than a chunk, (length, d_model, d_state), are never stored: every
form keeps the state at the boundaries of chunks and recomputes the rest in the backward pass. Which
form is used is chosen here by the backend, and was chosen by measurement (docs/performance.md).
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssm import recurrence
from ssm.discretise import exponential_euler
from ssm.selective_scan_blocked import blocked_scan
from ssm.selective_scan_kernel import kernel_runs, selective_scan_kernel

Form = Literal["blocked", "kernel", "associative"]
"""How the scan is computed: in cache-sized blocks, for a CPU (`ssm.selective_scan_blocked`); by one
fused GPU kernel (`ssm.selective_scan_kernel`); or as associative scans over chunks, anywhere."""

CHUNK, LONG_CHUNK, LONG = 8, 32, 256
"""Steps between the states that are kept, and the same for sequences longer than LONG: less memory
there, for no more time."""


def selective_scan_step(
    h: Float[Array, "d_model d_state"],
    x: Float[Array, "d_model"],
    delta: Float[Array, "d_model"],
    a: Float[Array, "d_model d_state"],
    b: Float[Array, "d_state"],
    c: Float[Array, "d_state"],
    d: Float[Array, "d_model"],
) -> tuple[Float[Array, "d_model d_state"], Float[Array, "d_model"]]:
    """One step of the recurrence: (h_{t−1}, x_t, …) ↦ (h_t, y_t)."""
    a_bar, b_bar = exponential_euler(a, delta[:, None])
    h = a_bar * h + (b_bar * x[:, None]) * b[None, :]
    return h, h @ c + d * x


def selective_scan_sequential(
    x: Float[Array, "length d_model"],
    delta: Float[Array, "length d_model"],
    a: Float[Array, "d_model d_state"],
    b: Float[Array, "length d_state"],
    c: Float[Array, "length d_state"],
    d: Float[Array, "d_model"],
) -> Float[Array, "length d_model"]:
    """`selective_scan`, one step after the other: the readable oracle."""

    def step(h, inputs):
        x_t, delta_t, b_t, c_t = inputs
        return selective_scan_step(h, x_t, delta_t, a, b_t, c_t, d)

    return jax.lax.scan(step, jnp.zeros_like(a), (x, delta, b, c))[1]


def selective_scan(
    x: Float[Array, "length d_model"],
    delta: Float[Array, "length d_model"],
    a: Float[Array, "d_model d_state"],
    b: Float[Array, "length d_state"],
    c: Float[Array, "length d_state"],
    d: Float[Array, "d_model"],
    *,
    chunk: int | None = None,
    form: str | None = None,
) -> Float[Array, "length d_model"]:
    """y of the selective recurrence above, for one sequence.

    Gradients are by reverse mode; forward mode (`jax.jvp`) needs `form="associative"`.

    Arguments:
        x: input.
        delta: steps Δ_t > 0, one a channel and position.
        a: the diagonals of A, negative for a stable recurrence.
        b, c: input and output vectors, shared by the channels of a position.
        d: skip connection.
        chunk: steps a chunk; None chooses by the length. The kernel has a chunk of its own.
        form: None chooses: the kernel where it runs, blocks on a CPU, associative scans elsewhere.

    Returns:
        y, of the shape of x.

    Raises:
        ValueError: if chunk is not positive, form is none of the three, or it is "kernel" where the
            kernel cannot run.
    """
    if chunk is None:
        chunk = LONG_CHUNK if x.shape[0] > LONG else CHUNK
    if chunk < 1:
        raise ValueError(f"chunk: got {chunk}; expected a positive number of steps")
    arguments = (x, delta, a, b, c, d)
    runs = kernel_runs(*arguments)
    if form is None:
        on_cpu = jax.default_backend() == "cpu"
        form = "kernel" if runs else "blocked" if on_cpu else "associative"
    if form not in get_args(Form):
        raise ValueError(f"form: got {form!r}; expected one of {list(get_args(Form))}")
    if form == "kernel":
        if not runs:
            got = ", ".join(f"{v.dtype}{list(v.shape)}" for v in arguments)
            raise ValueError(
                f"form: got 'kernel' for {got} on {jax.devices()[0].device_kind}; it needs "
                "float32, nothing empty, and an NVIDIA GPU of compute capability 8.0 or later"
            )
        return selective_scan_kernel(*arguments)
    if x.size == 0 or a.size == 0:  # no step, channel or state
        return d[None] * x
    if form == "blocked":
        return blocked_scan(x, delta, a, b, c, chunk=chunk) + d[None] * x
    return _scan_in_chunks(x, delta, a, b, c, chunk) + d[None] * x


def _scan_in_chunks(x, delta, a, b, c, chunk):
    """C_t · h_t by an associative scan over each chunk, one chunk after the other."""
    length = x.shape[0]

    def scan_chunk(h, inputs):
        x_c, delta_c, b_c, c_c = inputs
        a_bar, b_bar = exponential_euler(a[None], delta_c[:, :, None])
        drive = (b_bar * x_c[:, :, None]) * b_c[:, None, :]
        states = recurrence.associative(a_bar, drive, h)
        return states[-1], jnp.einsum("ldn,ln->ld", states, c_c)

    h0 = jnp.zeros_like(a)
    if length <= chunk:
        return scan_chunk(h0, (x, delta, b, c))[1]
    chunks = -(-length // chunk)

    def split(v):  # zeros in the padding: Δ = 0 makes each added step the identity
        v = jnp.pad(v, ((0, chunks * chunk - length), (0, 0)))
        return v.reshape(chunks, chunk, v.shape[1])

    inputs = (split(x), split(delta), split(b), split(c))
    _, y = jax.lax.scan(jax.checkpoint(scan_chunk), h0, inputs)
    return y.reshape(chunks * chunk, -1)[:length]
