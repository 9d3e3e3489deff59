"""The dense linear CDE: a training step on A5, and Figure 1's features; beside the paper's code."""

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from benchmarks.harness import (
    Options,
    Row,
    check_agreement,
    product_rate,
    rows,
    time_in_turn,
)
from benchmarks.training import program_of
from experiments.training.readout import least_squares
from ssm.cde import ExactFlow, Tsit5
from ssm.mixers import LinearCDE
from tasks.signature import SignatureTask

OFFICIAL = "official code"
LATTICE = {"Tsit5 on the lattice": Tsit5(), "exact flow on the lattice": ExactFlow()}
D_HIDDEN = 256
"""Size of the state, in both figures."""

STEPS = 5
"""Steps a dispatch, as a run has about a second's worth."""


def official_code(directory: Path) -> Any:
    """The module `linear_cde` of a checkout of the paper's code
    (github.com/Benjamin-Walker/selective-ssms-and-linear-cdes), without its data loaders."""
    for name in ("data_dir", "data_dir.jax_dataloader", "sklearn", "sklearn.linear_model"):
        sys.modules.setdefault(name, types.ModuleType(name))
    loaders = sys.modules["data_dir.jax_dataloader"]
    loaders.A5Dataloader = loaders.ToyDataloader = object  # type: ignore[attr-defined]
    sys.path.insert(0, str(directory))
    return importlib.import_module("linear_cde")


def a5_step(options: Options) -> list[Row]:
    """One training step at the paper's A5 size: AdamW on 32 sequences, then on 3 of length 2."""
    found: list[Row] = []
    for length in (3, 20):
        program = program_of(["+experiment=figure2/linear_cde", f"task.length={length}"], [0])
        runs: dict[str, Callable[[], Any]] = {"this code": partial(program.advance, STEPS)}
        if options.official is not None:
            official = official_code(options.official)
            _check_a5(official, program.model, length)
            runs[OFFICIAL] = _official_a5(official, length)
        seconds = time_in_turn(runs, options.repeats)
        seconds["this code"] /= STEPS
        found += rows("a5_step", f"length {length}, d_hidden {D_HIDDEN}", seconds, OFFICIAL)
    return found


def _official_a5(official: Any, length: int) -> Callable[[], Any]:
    """The paper's training step, with its model and loss."""
    model = official.A5LinearCDE(D_HIDDEN, 60, 60, key=jr.key(0))
    optimizer = optax.adamw(2e-4, weight_decay=0.01)

    @eqx.filter_jit
    def step(model, state, tokens, targets, keys):
        def loss(model):
            p = jax.vmap(model, in_axes=(0, None, 0))(tokens, True, keys)
            return jnp.mean(-jnp.sum(targets * jnp.log(p + 1e-10), axis=-1))

        gradients = eqx.filter_grad(loss)(model)
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = optimizer.update(gradients, state, params)
        return eqx.apply_updates(model, updates), state

    tokens = jr.randint(jr.key(1), (32, length), 0, 60)
    targets, keys = jax.nn.one_hot(tokens, 60), jr.split(jr.key(2), 32)
    held = [model, optimizer.init(eqx.filter(model, eqx.is_inexact_array))]

    def run() -> Any:
        held[:] = step(held[0], held[1], tokens, targets, keys)
        held[:] = step(held[0], held[1], tokens[:3, :2], targets[:3, :2], keys[:3])
        return eqx.filter(held[0], eqx.is_array)

    return run


def _check_a5(official: Any, ours: Any, length: int) -> None:
    """With the same parameters: the same probabilities, and the same gradient with respect to A."""
    block = ours.blocks[0]
    theirs = official.A5LinearCDE(D_HIDDEN, 60, 60, key=jr.key(0))
    theirs = eqx.tree_at(
        lambda m: (
            m.embedding.weights, m.LCDE.vf_A, m.LCDE.vf_B, m.LCDE.init_matrix, m.LCDE.init_bias,
            m.linear_mix.weight, m.linear_mix.bias, m.linear_out.weight, m.linear_out.bias,
        ),
        theirs,
        (
            ours.encoder.weight, jnp.moveaxis(block.mixer.a, 0, 1), block.mixer.b,
            block.mixer.initial_weight, block.mixer.initial_bias,
            block.mix.weight, block.mix.bias, ours.readout.weight, ours.readout.bias,
        ),
    )  # fmt: skip
    tokens = jr.randint(jr.key(1), (32, length), 0, 60)
    weights = jr.normal(jr.key(2), (32, length, 60))
    test = eqx.nn.inference_mode(ours)

    def of_theirs(a):
        m = eqx.tree_at(lambda m: m.LCDE.vf_A, theirs, jnp.moveaxis(a, 0, 1))
        return jax.vmap(lambda x: m(x, False, jr.key(0)))(tokens)

    def of_ours(a):
        m = eqx.tree_at(lambda m: m.blocks[0].mixer.a, test, a)
        return jax.nn.softmax(jax.vmap(m)(tokens))

    def value_and_gradient(function):
        return jax.jit(jax.value_and_grad(lambda a: jnp.sum(weights * function(a))))(block.mixer.a)

    check_agreement(
        {"official": value_and_gradient(of_theirs), "ours": value_and_gradient(of_ours)}, 1e-3
    )


def figure1_features(options: Options) -> list[Row]:
    """Features of random linear CDEs of Figure 1's paths: Tsit5 and the exact
    flow, path by path and on the lattice; useful GFLOP/s of those that do a known number.

    Path by path on the first `options.paths` paths; on the lattice, where the matrices are shared
    by all paths, on the whole data set. Times are scaled to 100,000 paths.
    """
    found: list[Row] = []
    peak = 1e-9 * product_rate()
    for dimension in (2, 3):
        task = SignatureTask(dimension=dimension, word=tuple(range(1, dimension + 1)))
        data = task.load()
        assert data.unit is not None
        x, y = data.train.inputs[: options.paths], data.train.targets[: options.paths]
        every = np.concatenate([data.train.inputs, data.validation.inputs])
        assert data.unit is not None
        layer = _layer(dimension, ExactFlow())
        runs: dict[str, Callable[[], np.ndarray]] = {}
        if options.official is not None:
            runs[OFFICIAL] = _official_features(official_code(options.official), layer, x)
        runs["Tsit5"] = _by_batches(_layer(dimension, Tsit5()), x)
        runs["exact flow, path by path"] = _by_batches(layer, x)
        for name, solver in LATTICE.items():
            runs[name] = partial(_layer(dimension, solver).last_of_many, every, data.unit)
        features = {name: run() for name, run in runs.items()}
        of_x = {name: f[: len(x)] for name, f in features.items()}
        check_agreement(of_x, 2e-3)
        seconds = time_in_turn(runs, 1, warm=True)
        paths = {name: len(f) for name, f in features.items()}
        seconds = {name: s * 1e5 / paths[name] for name, s in seconds.items()}
        flops = 2e5 * (task.length - 1) * D_HIDDEN**2
        work = dict.fromkeys(LATTICE, flops)
        work["exact flow, path by path"] = 10 * (1 + dimension) * flops
        extra: dict[str, dict[str, Any]] = {}
        for name in runs:
            extra[name] = {"paths": paths[name], "rmse": _rmse(of_x[name], y)}
            if name in work:
                rate = work[name] / seconds[name] / 1e9
                extra[name] |= {"GFLOP/s": rate, "of the peak": rate / peak}
        case = f"{dimension}D, for 100,000 paths of 100 points; peak {peak:.0f} GFLOP/s"
        found += rows("figure1_features", case, seconds, OFFICIAL, extra)
    return found


def _rmse(features: np.ndarray, targets: np.ndarray) -> float:
    """Of the linear readout fitted on four fifths of the paths, on the others."""
    n = len(features) * 4 // 5
    fit = least_squares(features[:n], targets[:n])
    return float(np.sqrt(np.mean((features[n:] @ fit.weights + fit.intercept - targets[n:]) ** 2)))


def _layer(channels: int, solver: Any) -> LinearCDE:
    return LinearCDE(
        D_HIDDEN, channels=channels, gate_omega="path", gate_xi="path", solver=solver, key=jr.key(0)
    )


def _by_batches(layer: LinearCDE, x: np.ndarray, size: int = 1000) -> Callable[[], np.ndarray]:
    """Final states, a batch at a time, as the readout computes them."""
    function = eqx.filter_jit(lambda layer, batch: jax.vmap(lambda x: layer(x)[0][-1])(batch))

    def run() -> np.ndarray:
        starts = range(0, len(x), size)
        return np.concatenate([np.asarray(function(layer, x[i : i + size])) for i in starts])

    return run


def _official_features(official: Any, layer: LinearCDE, x: np.ndarray) -> Callable[[], np.ndarray]:
    """The paper's way: `vmap` of its model, without jit of its own, on batches of 4,000."""
    model = official.LinearCDE(D_HIDDEN, x.shape[-1], 1, key=jr.key(0))
    model = eqx.tree_at(
        lambda m: (m.vf_A, m.vf_B, m.init_matrix, m.init_bias),
        model,
        (jnp.moveaxis(layer.a, 0, 1), layer.b, layer.initial_weight, layer.initial_bias),
    )

    def run() -> np.ndarray:
        batches = [x[i : i + 4000] for i in range(0, len(x), 4000)]
        return np.concatenate([np.asarray(jax.vmap(model)(jnp.asarray(b))) for b in batches])

    return run
