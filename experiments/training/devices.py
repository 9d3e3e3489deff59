"""Seeds and batches over the local devices: which device does what, and how the results meet.

S seeds on D devices make a mesh of g × D/g, with g = gcd(S, D): the seeds are dealt out along
"seeds", and the examples of each batch along "batch". The arrays that training changes live on
their seed's devices, the data on every device. Each device runs the program that one device would
run, on its own seeds and examples (`jax.shard_map`), so that a fused kernel or a loop over a batch
needs no rule for being cut up, and seeds on different devices never wait for one another. What
travels is the mean of the gradients and statistics over the D/g devices of a seed.

With one device all of this is the identity: nothing is added to the program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")

BY_SEED = PartitionSpec("seeds")
"""An array whose leading axis is that of seeds."""
WHOLE = PartitionSpec()
"""An array of which every device has all."""


@dataclass(frozen=True)
class Layout:
    """How many ways seeds and batches are dealt out.

    Attributes:
        seeds: groups of devices, each of which trains its own seeds.
        batch: devices in a group, each of which has its own examples.
    """

    seeds: int = 1
    batch: int = 1

    @property
    def _mesh(self) -> Mesh:
        devices = np.asarray(jax.local_devices()).reshape(self.seeds, self.batch)
        return Mesh(devices, ("seeds", "batch"))

    def spread(self, function: Callable[..., T], *specs: PartitionSpec) -> Callable[..., T]:
        """`function` on each device's part of its arguments; results have a leading axis of seeds.

        Arguments:
            specs: BY_SEED or WHOLE, one an argument.
        """
        if self == ALONE:
            return function
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=specs, out_specs=BY_SEED, check_vma=False
        )

    def replicate(self, tree: T) -> T:
        """The arrays, on every device."""
        return tree if self == ALONE else jax.device_put(tree, NamedSharding(self._mesh, WHOLE))

    def share(self, batch: T) -> T:
        """In `spread`: this device's examples of a batch, whose arrays have a leading axis of them.

        A batch whose size the devices do not divide is not shared out: each does all of it.
        """
        size = len(jax.tree.leaves(batch)[0])
        if self.batch == 1 or size % self.batch:
            return batch
        part = size // self.batch
        start = jax.lax.axis_index("batch") * part
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, part), batch)

    def mean(self, tree: T) -> T:
        """In `spread`: the mean over the devices of a seed, the same numbers on each of them.

        It is to be taken of gradients, never differentiated.
        """
        return tree if self.batch == 1 else jax.lax.pmean(tree, "batch")


ALONE = Layout()
"""One device."""


def layout_of(seeds: int) -> Layout:
    """The layout of so many seeds on all the local devices."""
    devices = jax.local_device_count()
    groups = gcd(seeds, devices)
    return Layout(groups, devices // groups)
