"""Optimisers that Optax has the parts of."""

import optax


def clipped_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    clip: int | float = 1.0,
) -> optax.GradientTransformation:
    """AdamW on gradients whose norm, over all parameters, is at most `clip`.

    Raises:
        ValueError: if clip is not positive.
    """
    if not clip > 0:
        raise ValueError(f"clip: got {clip}; expected a positive number")
    return optax.chain(
        optax.clip_by_global_norm(clip),
        optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay),
    )
