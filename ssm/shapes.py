"""The legend of axis names used by every jaxtyping annotation in `ssm`.

| axis | meaning |
| --- | --- |
| `length` | positions of the sequence, the time axis; always first |
| `steps` | increments between samples; `length − 1` for a sampled path |
| `channels` | coordinates of an input path X |
| `omega`, `xi` | coordinates of the gates ω and ξ |
| `d_model` | width of the residual stream |
| `d_hidden` | size of the state Z of a linear CDE |
| `d_state` | size of the state of a state-space model, per channel (S4, Mamba) or in all (S5) |
| `outputs` | classes, or dimensions of a regression target |

There is no batch axis: every function and layer takes one example.
"""

from jaxtyping import Array, Complex, Float, Int

Sequence = Float[Array, "length d_model"]
"""A sequence of features, one row a position: what a mixer takes and returns."""

Vector = Float[Array, "d_model"]
"""One position of a `Sequence`."""

Tokens = Int[Array, "length"]
"""A sequence of token indices."""

Path = Float[Array, "length channels"]
"""A path X sampled at `length` times."""

__all__ = ["Array", "Complex", "Float", "Int", "Path", "Sequence", "Tokens", "Vector"]
