# %% [markdown]
# # From a path to state tracking
#
# A selective state-space model is a linear controlled differential equation,
#
# $$dZ = \sum_i A_i Z\,d\omega^i + B\,d\xi,$$
#
# driven by gates $\omega$ and $\xi$ that are made from the input path $X$. On samples it is the
# recurrence $h_t = A_t h_{t-1} + b_t$: $\omega$ chooses $A_t$, and $\xi$ chooses $b_t$. This
# tutorial goes from a path to its gates, to the matrices $A_t$ of one family, to a scan that solves
# the recurrence, and to a model that multiplies permutations. It takes about half a minute on two
# cores.

# %%
import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

from ssm.control import gate_increments, steps_of
from ssm.mixers import LinearCDE
from ssm.model import SequenceModel
from ssm.recurrence import stack
from ssm.scans import scan
from tasks.coordinates import signature_coordinates
from tasks.paths import rounded_random_walks
from tasks.word_problem import WordProblem

DENSE, DIAGONAL = "#D55E00", "#0072B2"
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## A path
#
# The paper's Figure 1 is about rounded random walks, and what a model can know of the order of
# their steps. Here is one, and the same steps with the first half after the second. Both walks end
# at the same point; the signed area between the walk and its chord, the Lévy area
# $\frac12 \int X^1 dX^2 - X^2 dX^1$, tells them apart.

# %%
walk = rounded_random_walks(n_paths=1, length=60, dimension=2, seed=56).paths[0]
steps = np.diff(walk, axis=0)
swapped = np.concatenate([steps[30:], steps[:30]])
orders = np.stack([np.cumsum(np.concatenate([walk[:1], s]), axis=0) for s in (steps, swapped)])
areas = signature_coordinates(orders.astype(np.float32), (1, 2), "alternating")

figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), sharex=True, sharey=True, layout="constrained")
titles, colors = ("the walk", "its halves swapped"), ("black", "tab:green")
for ax, x, area, title, halves in zip(axes, orders, areas, titles, (colors, colors[::-1])):
    ax.fill(*x.T, color="0.93")
    ax.plot(*x[[0, -1]].T, color="0.6", linestyle="--", linewidth=1)
    for half, color in zip((x[:31], x[30:]), halves):
        ax.plot(*half.T, color=color, linewidth=1)
    ax.plot(*x[0], "o", color="0.4", label="start")
    ax.plot(*x[-1], "s", color="0.4", label="end")
    ax.set(title=f"{title}: area {area:+.2f}", xlabel="$X^1$", aspect="equal")
axes[0].set_ylabel("$X^2$")
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Gates
#
# A gate is a path made from $X$. The gate `path` is $(t, X_t)$ itself: its increments are the steps
# of the walk. The gate `integral` is $\int (s, X_s)\,ds$: its increments are the *values* of $X$,
# so that each token of a text has a matrix of its own.

# %%
n = len(walk)
time_steps = steps_of("1/length", n)
times, gaps = jnp.arange(1, n) / (n - 1), jnp.ones(n - 1)
gates = {
    name: gate_increments(name, time_steps, jnp.array(walk[1:]), jnp.array(walk[:-1]), times, gaps)
    for name in ("path", "integral")
}

figure, axes = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
for ax, (name, increments) in zip(axes, gates.items()):
    lines = ax.plot(times, jnp.cumsum(increments, axis=0), linewidth=1.2)
    ax.set(title=f"gate '{name}'", xlabel="t")
    ax.legend(lines, [r"$\omega^0$ (time)", r"$\omega^1$", r"$\omega^2$"], fontsize=8)
plt.show()

# %% [markdown]
# ## The matrices of one family
#
# What makes a family is its `element`: the recurrence at one position. For a linear CDE with
# Euler's scheme it is $A_t = 1 + \sum_i A_i \Delta\omega^i_t$, with $A_i$ dense or diagonal.

# %%
families = {
    name: LinearCDE(6, channels=2, structure=name, gate_omega="path", gate_xi="path", key=jr.key(1))
    for name in ("dense", "diagonal")
}
d_omega = gates["path"]
nothing = jnp.zeros(6)  # no drive: Δξ = 0

cde = families["dense"]
matrix = cde.element(d_omega[0], nothing).transition.matrix()
by_hand = jnp.eye(6) + sum(cde.a[i] * d_omega[0, i] for i in range(3))
print("A_1 is 1 + Σ A_i Δω^i, but for rounding:", float(jnp.max(jnp.abs(matrix - by_hand))))

figure, axes = plt.subplots(2, 4, figsize=(7, 3.6), layout="constrained")
for row, (name, cde) in zip(axes, families.items()):
    for ax, t in zip(row, (0, 1, 2, 3)):
        matrix = cde.element(d_omega[t], nothing).transition.matrix()
        image = ax.imshow(matrix - jnp.eye(6), cmap="RdBu", vmin=-0.25, vmax=0.25)
        ax.set(title=f"{name}, $A_{t + 1} - 1$", xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
figure.colorbar(image, ax=axes, shrink=0.8)
plt.show()

# %% [markdown]
# ## A scan
#
# `stack` makes the recurrence of a whole sequence out of that of a position, and `scan` solves it,
# by an algorithm that it chooses from the structure of $A_t$. A loop gives the same. (A mixer does
# all of this by itself: `y, state = mixer(x)`.)
#
# The state sees the two orders of the walk's steps. Diagonal matrices commute, and so their product
# is the same in either order; dense ones do not.

# %%


def step_by_step(cde, increments, h):
    """The last state, by a loop."""
    for d in increments:
        h = cde.element(d, nothing).transition.matrix() @ h
    return h


h0 = jnp.ones(6)
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
for ax, (name, cde) in zip(axes, families.items()):
    for x, title, color in zip(orders, titles, colors):
        x = jnp.array(x, jnp.float32)
        increments = gate_increments("path", time_steps, x[1:], x[:-1], times, gaps)
        recurrence = stack(lambda d, cde=cde: cde.element(d, nothing), increments)
        states, last = scan(recurrence, h0)
        h = step_by_step(cde, increments, h0)
        print(f"{name}, {title}: scan and loop differ by {float(jnp.max(jnp.abs(h - last))):.0e}")
        ax.plot(times, states[:, 0], color=color, label=f"{title}, scan", linewidth=1.2)
        ax.plot(times[-1], h[0], "o", color=color, label="by a loop")
    ax.set(title=f"{name}: first coordinate of the state", xlabel="t")
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# ## State tracking
#
# The order of steps is what the word problem of a group is about: read $x_1, x_2, \dots$ in $A_5$,
# the even permutations of five elements, and say every product $x_1 x_2 \cdots x_t$. One block
# with a dense linear CDE learns it in seconds; with a diagonal one, in as many steps, it does not.
# Both train on sequences of length 5, and on all of length 2.

# %%
task = WordProblem("A5", length=5, samples=200_000)
data = jax.tree.map(jnp.asarray, task.load())


def make_model(structure, key):
    """One block. `dt` is a number, so that a token's matrix is the same at every length."""
    mixer = partial(
        LinearCDE, structure=structure, gate_omega="integral", gate_xi="integral", dt=1 / 5
    )
    return SequenceModel(mixer, d_model=64, activation="relu", vocabulary=60, n_outputs=60, key=key)


def train(model, steps, key):
    """AdamW on batches of 32 of each length; returns the model and the losses."""
    optimizer = optax.adamw(2e-3)
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss_of(params, split, key):
        rows = jr.randint(key, (32,), 0, len(split.inputs))
        x, y = split.inputs[rows].astype(jnp.int32), split.targets[rows]
        outputs = jax.vmap(eqx.combine(params, static))(x)
        return jnp.mean(jax.vmap(task.loss)(outputs, y))

    def step(carry, key):
        params, state = carry
        k1, k2 = jr.split(key)
        loss, gradient = jax.value_and_grad(
            lambda p: loss_of(p, data.train, k1) + loss_of(p, data.auxiliary, k2)
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), loss

    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))
    (params, _), losses = run((params, optimizer.init(params)), jr.split(key, steps))
    return eqx.combine(params, static), losses


models, losses = {}, {}
for structure in ("dense", "diagonal"):
    start = time.monotonic()
    model = make_model(structure, jr.key(0))
    models[structure], losses[structure] = train(model, steps=2000, key=jr.key(1))
    final = float(jnp.mean(losses[structure][-50:]))
    print(f"{structure}: loss {final:.3f} after {time.monotonic() - start:.0f} s")

# %%
figure, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
for structure, color in (("dense", DENSE), ("diagonal", DIAGONAL)):
    smooth = jnp.convolve(losses[structure], jnp.ones(20) / 20, mode="valid")
    ax.plot(smooth, color=color, label=structure, linewidth=1.2)
ax.axhline(2 * np.log(60), color="0.6", linestyle=":", label="guessing")
ax.set(xlabel="step", ylabel="loss, lengths 5 and 2", ylim=(0, 9))
ax.legend()
plt.show()

# %% [markdown]
# ## Accuracy by length
#
# Sequences of length 20, which neither model was trained on: how often is the product of the first
# $t$ elements right? The dense model goes on a while beyond the lengths it has seen. The diagonal
# model cannot even do all of what it has seen: the product of two it learns in part, and of three
# it guesses.

# %%
test = WordProblem("A5", length=20, samples=1000, auxiliary_length=None).load().train
positions = np.arange(1, 21)

figure, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.axvspan(1, 5, color="0.93", label="lengths in training")
for structure, color in (("dense", DENSE), ("diagonal", DIAGONAL)):
    outputs = jax.jit(jax.vmap(models[structure]))(jnp.asarray(test.inputs, jnp.int32))
    right = np.mean(np.asarray(outputs).argmax(axis=-1) == test.targets, axis=0)
    ax.plot(positions, right, color=color, marker="o", markersize=3, label=structure)
    print(f"{structure}: {right[:8].round(3)} at lengths 1 to 8")
ax.axhline(1 / 60, color="0.6", linestyle=":", label="chance")
ax.set(xlabel="length t", ylabel="accuracy", xticks=[1, 5, 10, 15, 20], ylim=(0, 1.03))
ax.legend()
plt.show()

# %% [markdown]
# ## Where to go from here
#
# - `python experiments/run.py task=a5 model=mamba` trains any model on any task, with logs,
#   checkpoints and the paper's settings.
# - `load_run(directory)` of `experiments.loading` gives a run's trained models, and
#   `python experiments/evaluate.py RUN task.length=[40,80,160]` evaluates them at other lengths.
# - The README's table says which words of a path's signature each family can see.
