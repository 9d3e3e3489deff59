"""What the seven models gave before they were rebuilt on one recurrence.

A case is an experiment's settings, small or the paper's. Of each, `tests/golden/<sizes>.json` keeps
the parameters' hashes and, in float32 and float64, the outputs, the loss's gradient and the losses
of ten training steps, on data that are drawn here. `python tests/golden_values.py SIZES FILE`
writes such a file with the code at hand; those that are kept were written at commit 5c30953, where
there were no options as in `MOVED`.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from experiments.config import compose_run

BATCH, STEPS, SAMPLES = 4, 10, 64

_SMALL = {
    "figure1": ["task.n_paths=120", "task.length=8", "model.d_model=8"],
    "figure2": ["task.samples=400", "task.length=4", "model.d_model=8"],
}
_SMALL_MIXER = {
    "mamba": ["model.mixer.d_state=4"],
    "s4": ["model.mixer.d_state=4"],
    "s5": ["model.mixer.d_state=8"],
    "transformer": ["model.mixer.num_heads=2", "model.mixer.d_feedforward=8"],
}
_DEPTHS = {
    "": ["model.depth=1"],
    ", two blocks": ["model.depth=2"],
    ", two blocks and an activation": ["model.depth=2", "model.activation=gelu"],
}


def _cases() -> dict[str, dict[str, list[str]]]:
    """Command lines by name: small ones, and the paper's."""
    small, paper = {}, {}
    for model in ("linear_cde", "diagonal_cde"):
        for task in ("area", "volume"):
            chosen = [f"+experiment=figure1/{model}", f"task={task}"]
            small[f"figure1 {model} {task}"] = chosen + _SMALL["figure1"]
            paper[f"figure1 {model} {task}"] = chosen
    for model in ("mamba", "s4", "s5"):
        for task in ("area", "volume"):
            for name, depth in _DEPTHS.items():
                chosen = [f"+experiment=figure1/{model}", f"task={task}", *depth]
                tiny = _SMALL["figure1"] + _SMALL_MIXER[model]
                if task == "area":
                    small[f"figure1 {model} {task}{name}"] = chosen + tiny
                if task == "area" or not name:
                    paper[f"figure1 {model} {task}{name}"] = chosen
    for model in ("linear_cde", "mamba", "rnn", "s4", "transformer"):
        chosen = [f"+experiment=figure2/{model}"]
        tiny = _SMALL["figure2"] + _SMALL_MIXER.get(model, [])
        small[f"figure2 {model}"] = chosen + tiny
        if model != "linear_cde":
            small[f"figure2 {model}, two blocks"] = [*chosen, *tiny, "model.depth=2"]
        for length in (3, 20):
            paper[f"figure2 {model} {length}"] = [*chosen, f"task.length={length}"]
    small["quick area linear_cde"] = [
        "task=area", "model=linear_cde", "task.n_paths=120", "task.length=8", "model.d_model=8"
    ]  # fmt: skip
    small["quick a5 diagonal_cde"] = [
        "task=a5", "model=diagonal_cde", *_SMALL["figure2"]
    ]  # fmt: skip
    small["quick a5 mamba, full"] = [
        "task=a5", "model=mamba", "model.mixer.variant=full", *_SMALL["figure2"],
        *_SMALL_MIXER["mamba"],
    ]  # fmt: skip
    small["quick area mamba"] = [
        "task=area", "model=mamba", *_SMALL["figure1"], *_SMALL_MIXER["mamba"]
    ]  # fmt: skip
    return {"small": small, "paper": paper}


CASES = _cases()
MOVED = {"s5": ["model.mixer.log_real=true", "model.mixer.real_normal=true"]}
"""Options by which a model is as it was: S5 has its source's initial values by default now."""


def compute(overrides: list[str]) -> dict[str, Any]:
    """The values of one case, by the code at hand."""
    with tempfile.TemporaryDirectory() as directory:
        # Features too, which have no optimiser of their own, are trained here.
        run = compose_run([*overrides, "procedure=train"], Path(directory))
    with jax.numpy_dtype_promotion("standard"):
        model = eqx.filter_jit(run.make_model)(jr.key(0))
        found: dict[str, Any] = {"parameters": sorted(_hashes(model))}
        found["float32"] = _values(run, model)
        with jax.enable_x64(True):
            wide = jax.tree.map(
                lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x, model
            )
            found["float64"] = _values(run, wide)
    return found


def _values(run, model) -> dict[str, Any]:
    dtype = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))[0].dtype
    batches = [_batch(run.task, dtype, run.task.length)]
    if run.task.per_position:
        batches.append(_batch(run.task, dtype, 2))
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params, key):
        model, total = eqx.combine(params, static), jnp.zeros((), dtype)
        for i, (x, y) in enumerate(batches):
            keys = jr.split(jr.fold_in(key, i), BATCH)
            each = jax.vmap(lambda x, y, k: run.task.loss(model(x, key=k), y))(x, y, keys)
            total = total + jnp.mean(each)
        return total

    @jax.jit
    def step(params, state, key):
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = run.optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value, grads

    still = eqx.nn.inference_mode(model)
    outputs = eqx.filter_jit(lambda m, x: jax.vmap(lambda x: m(x))(x))(still, batches[0][0])
    hashes = _hashes(jax.tree.map(lambda x: x.astype(jnp.float32), params))
    state, losses, gradient = run.optimizer.init(params), [], None
    for i in range(STEPS):
        params, state, value, grads = step(params, state, jr.key(i))
        losses.append(float(value))
        gradient = grads if gradient is None else gradient
    flat = np.asarray(outputs, np.float64).ravel()
    return {
        "outputs": flat[:: max(1, flat.size // SAMPLES)].tolist(),
        "losses": losses,
        "gradient": dict(zip(hashes, map(_projections, jax.tree.leaves(gradient)), strict=True)),
    }


def _batch(task, dtype, length):
    rng = np.random.default_rng(0)
    if task.vocabulary is not None:
        x = rng.integers(task.vocabulary, size=(BATCH, length)).astype(np.uint8)
        return jnp.asarray(x), jnp.asarray(rng.integers(task.n_outputs, size=x.shape))
    steps = np.rint(rng.normal(size=(BATCH, length, task.channels)))
    x = np.cumsum(steps, axis=1)
    return jnp.asarray(x / np.abs(x).max(), dtype), jnp.asarray(rng.normal(size=(BATCH, 1)), dtype)


def _hashes(tree) -> list[str]:
    """Of each parameter, by its shape and bits; equal ones are numbered."""
    seen: dict[str, int] = {}
    names = []
    for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)):
        digest = hashlib.sha256(f"{leaf.shape}".encode() + np.asarray(leaf).tobytes())
        name = digest.hexdigest()[:12]
        seen[name] = seen.get(name, -1) + 1
        names.append(f"{name}-{seen[name]}")
    return names


def _projections(leaf) -> list[float]:
    """The norm, and the product with numbers drawn for its shape."""
    x = np.asarray(leaf, np.float64)
    return [
        float(np.linalg.norm(x)),
        float(np.sum(x * np.random.default_rng(1).normal(size=x.shape))),
    ]


if __name__ == "__main__":
    sizes, path, *names = sys.argv[1:]
    kept = {}
    for name in names or CASES[sizes]:
        print(name, flush=True)
        kept[name] = compute(CASES[sizes][name] + MOVED.get(name.split()[1], []))
        Path(path).write_text(json.dumps(kept))
