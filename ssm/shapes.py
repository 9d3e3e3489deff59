"""The legend of axis names used by every jaxtyping annotation in `ssm`.

| axis | meaning |
| --- | --- |
| `length` | positions of the sequence, the time axis; always first |
| `steps`, `k` | increments between samples; `length − 1` for a sampled path |
| `n` | rows of a recurrence's state, on which A acts |
| `m` | columns of a recurrence's state, copies with values of their own |
| `channels` | coordinates of an input path X |
| `omega`, `xi` | coordinates of the gates ω and ξ |
| `d_model` | width of the residual stream |
| `hidden`, `d_hidden` | size of the state Z of a linear CDE |
| `d_state` | size of the state of a state-space model, per channel (S4, Mamba) or in all (S5) |
| `outputs` | classes, or dimensions of a regression target |

There is no batch axis: every function and layer takes one example.
"""
