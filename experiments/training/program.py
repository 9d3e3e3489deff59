"""What a training run compiles: initialise, advance, evaluate; over seeds and devices."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, PyTree

from experiments.training.batches import Examples
from experiments.training.devices import BY_SEED, WHOLE, layout_of
from experiments.training.evaluate import Evaluation
from experiments.training.procedure import MakeModel, static_part
from experiments.training.seeds import SeedAxis, over_seeds
from experiments.training.step import (
    Mixing,
    Progress,
    Streams,
    TrainState,
    advance,
    make_step,
    start,
)
from ssm.init import named_key
from tasks.base import AbstractTask


@runtime_checkable
class Settings(Protocol):
    """The numbers of a training run, as `experiments.training.train.GradientDescent` has them."""

    @property
    def steps(self) -> int: ...
    @property
    def mixing(self) -> Mixing: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def evaluate_batch_size(self) -> int: ...
    @property
    def stop_at(self) -> float | None: ...
    @property
    def seed_axis(self) -> SeedAxis: ...
    @property
    def checkpoint_seconds(self) -> int | float: ...


class Program:
    """What a run compiles. Arrays that training changes have a leading axis of seeds.

    Arguments:
        seeds: trained in one program, each as if alone.
    """

    def __init__(
        self,
        settings: Settings,
        task: AbstractTask,
        make_model: MakeModel,
        optimizer: optax.GradientTransformation,
        seeds: Sequence[int],
    ):
        static = static_part(make_model)
        self.seeds = jnp.asarray(seeds, jnp.uint32)
        self.layout = layout = layout_of(len(seeds))
        step = make_step(task, static, optimizer, settings.mixing, layout)
        evaluation = Evaluation(task, static, settings.evaluate_batch_size, layout)
        axis, every = settings.seed_axis, settings.evaluate_every

        def init(seeds, streams):
            def one(seed):
                model = make_model(named_key(jr.key(seed), "model"))
                params = eqx.filter(model, eqx.is_inexact_array)
                state = TrainState.first(params, optimizer.init(params))
                return start(step, state, streams, seed)

            return over_seeds(one, "map")(seeds)

        def advance_some(progress, streams, seeds, n):
            def one(progress, seed, n):
                return advance(step, every, progress, streams, seed, n)

            return over_seeds(one, axis)(progress, seeds, n)

        def evaluate_some(params, split, sums, start, n):
            def one(params, sums):
                return evaluation.add(params, split, sums, start, n)

            return over_seeds(one, axis)(params, sums)

        self._init = jax.jit(layout.spread(init, BY_SEED, WHOLE))
        self._advance = jax.jit(
            layout.spread(advance_some, BY_SEED, WHOLE, BY_SEED, BY_SEED), donate_argnums=0
        )
        self.evaluate = jax.jit(
            layout.spread(evaluate_some, BY_SEED, WHOLE, BY_SEED, WHOLE, WHOLE), donate_argnums=2
        )
        self._zeros = evaluation.zeros
        self.width = evaluation.width

    def init(self, streams: Streams) -> Progress:
        """Every seed before its first step."""
        return self._init(self.seeds, streams)

    def advance(
        self, progress: Progress, streams: Streams, n: Array
    ) -> tuple[Progress, dict[str, Array]]:
        """Every seed after its number `n` of further steps; `progress` is given away."""
        return self._advance(progress, streams, self.seeds, n)

    def zeros(self, params: PyTree, split: Examples) -> dict[str, Array]:
        """The sums of every seed over no example."""
        one = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), params)
        shapes = jax.eval_shape(self._zeros, one, split)
        return {k: jnp.zeros((len(self.seeds), *s.shape), s.dtype) for k, s in shapes.items()}
