"""Figure 2's training steps at the paper's sizes, beside PyTorch's and beside what the machine's
matrix products and memory allow."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import (
    Options,
    Row,
    check_agreement,
    installed,
    memory_rate,
    on_gpu,
    product_rate,
    rows,
    time_in_turn,
)
from benchmarks.training import program_of
from ssm.mixers import TransformerLayer

CASES = [
    ("rnn", 3, 1), ("rnn", 20, 1),
    ("transformer", 3, 1), ("transformer", 20, 1), ("transformer", 20, 4),
    ("mamba", 3, 1), ("mamba", 20, 1),
]  # fmt: skip
"""(model, length, depth)."""

BATCH, AUXILIARY_LENGTH = 32, 2
"""A step is on so many sequences, and on as many of length 2, jointly."""

STEPS = 5
"""Steps a dispatch, as a run has about a second's worth."""

OURS = "this code"
PASSES = 3
"""A product forward is two backward, of the same size."""
MOVED = 7
"""Numbers that AdamW moves a parameter: it, its gradient and two moments read, three written."""


def training_step(options: Options) -> list[Row]:
    """Each case, in milliseconds, with the share of it that the machine's limits are."""
    found: list[Row] = []
    for model, length, depth in CASES:
        found += step_times(model, length, depth, options)
    return found


def step_times(
    model: str, length: int, depth: int, options: Options, overrides: Sequence[str] = ()
) -> list[Row]:
    """One case: ours beside PyTorch's, once both are known to compute the same."""
    experiment = [f"+experiment=figure2/{model}", f"task.length={length}", f"model.depth={depth}"]
    program = program_of([*experiment, *overrides], [0])
    theirs = "PyTorch, mambapy's scan" if model == "mamba" else "PyTorch"
    runs: dict[str, Callable[[], Any]] = {OURS: partial(program.advance, STEPS)}
    if installed(*(("torch", "mambapy") if model == "mamba" else ("torch",))):
        runs[theirs] = pytorch_step(program.model, length)
    seconds = time_in_turn(runs, options.repeats)
    seconds[OURS] /= STEPS
    least = least_seconds(program.model, length)
    extra = {name: {"share of the limit": least / s} for name, s in seconds.items()}
    rates = f"{1e-9 * product_rate():.0f} GFLOP/s, {1e-9 * memory_rate():.1f} GB/s"
    width = program.model.encoder.weight.shape[1]
    blocks = f"{depth} block{'s' if depth > 1 else ''} of width {width}"
    case = f"{model}, length {length}, {blocks}; limits {rates}"
    return rows("training_step", case, seconds, theirs, extra)


def pytorch_step(ours: Any, length: int) -> Callable[[], float]:
    """The step in PyTorch, compared with our model without dropout before it is given."""
    from benchmarks import pytorch

    theirs = pytorch.model_like(ours, "cuda" if on_gpu() else "cpu")
    batches = example_batches(length, ours.encoder.weight.shape[0])
    found = {
        OURS: value_and_gradient(ours, batches),
        "PyTorch": pytorch.value_and_gradient(theirs, batches),
    }
    check_agreement(found, 1e-3)
    return pytorch.training_step(theirs, batches, learning_rate=1e-4, weight_decay=0.01)


def example_batches(length: int, vocabulary: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random tokens and targets in the shapes of a step."""
    draw = np.random.default_rng(0)
    shapes = [(BATCH, length), (BATCH, AUXILIARY_LENGTH)]
    return [tuple(draw.integers(vocabulary, size=(2, *shape))) for shape in shapes]


def value_and_gradient(model: Any, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Any]:
    """Without dropout: the logits of the first batch, and the loss's gradient with respect to the
    embedding."""
    model = eqx.nn.inference_mode(model)

    def logits(weight, tokens):
        embedded = eqx.tree_at(lambda m: m.encoder.weight, model, weight)
        return jax.vmap(embedded)(tokens)

    def loss(weight):
        total = jnp.zeros(())
        for tokens, targets in batches:
            log_probabilities = jax.nn.log_softmax(logits(weight, tokens))
            total -= jnp.mean(jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1))
        return total

    weight = model.encoder.weight
    return [jax.jit(logits)(weight, batches[0][0]), jax.jit(jax.grad(loss))(weight)]


def least_seconds(model: Any, length: int) -> float:
    """What a step takes at least: its matrix products at the rate of a large one, then the
    optimiser's pass over its numbers at the rate of a large update."""
    parameters = sum(p.size for p in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))
    return products(model, length) / product_rate() + MOVED * 4 * parameters / memory_rate()


def products(model: Any, length: int) -> float:
    """Floating-point operations of a step's matrix products, forward and backward.

    Every matrix but the embedding and Mamba's A multiplies each position, and attention multiplies
    each position by all of its sequence, twice (the mask saves nothing).
    """
    positions = BATCH * (length + AUXILIARY_LENGTH)
    matrices = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_inexact_array)):
        names = {getattr(entry, "name", None) for entry in path}
        if leaf.ndim == 2 and not names & {"encoder", "a_log"}:
            matrices += leaf.size
    operations = 2 * matrices * positions
    width = model.encoder.weight.shape[1]
    for block in model.blocks:
        if isinstance(block.mixer, TransformerLayer):
            operations += 4 * width * BATCH * (length**2 + AUXILIARY_LENGTH**2)
    return PASSES * operations
