"""Several devices do what one does: a process with eight virtual ones, beside this one with one.

The means over a batch are means of the devices' means, which rounds otherwise: the numbers agree to
some 1e-7 after a few steps, and are asked to within 1e-5. Another random number, an example left
out or a mean not taken would change them by far more.
"""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from composing import TINY_A5, compose_run, execute

from experiments.training import checkpoint
from experiments.training.devices import Layout, layout_of
from experiments.training.loop import Loop

DEVICES = 8
SMALL = [
    *TINY_A5,
    "model.d_model=4",
    "model.depth=1",
    "train.steps=4",
    "train.mixing=none",
    "train.batch_size=16",
    "train.evaluate_every=2",
    "train.evaluate_batch_size=50",  # of 80: the last batch is filled up
    "train.stop_at=null",
]
CASES = {
    "four seeds": ["model=mamba", "model.dropout=0.1", "seeds=[0,1,2,3]"],
    "three seeds": [
        "model=linear_cde",
        "seeds=[0,1,2]",
        "train.seed_axis=vmap",
        "train.mixing=joint",
        "train.auxiliary_batch_size=6",
    ],
}
SEEDS_EACH = {"four seeds": 1, "three seeds": 3}
SHARES = {  # the examples a device does, of the batch, the auxiliary batch and the evaluation's
    "four seeds": {16: 8, 50: 25},
    "three seeds": {16: 2, 6: 6, 56: 7},  # the 8 devices of these seeds do not divide 6
}


def outcome(case, directory):
    """What a case logs and saves, and how its seeds and batches are dealt out."""
    run = compose_run([*SMALL, *CASES[case]], directory / case)
    loops, shares = [], {}

    def keep(loop, original=Loop.keep_models):
        loops.append(loop)
        original(loop)

    def share(layout, batch, original=Layout.share):
        part = original(layout, batch)
        before, after = (len(jax.tree.leaves(x)[0]) for x in (batch, part))
        shares[before] = after
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "keep_models", keep)
        patch.setattr(Layout, "share", share)
        logger, _ = execute(run)
    (loop,) = loops
    state = jax.tree.leaves(loop.progress)
    params = loop.progress.state.params
    like = jax.tree.map(lambda x: np.zeros(x.shape[1:], x.dtype), params)
    saved = (directory / case / f"model-seed{seed}.eqx" for seed in run.seeds)
    return {
        "values": {(r.step, r.seed, r.split, r.metric): r.value for r in logger.records},
        "parameters": [jax.tree.leaves(checkpoint.load(path, like)) for path in saved],
        "devices": {len(x.sharding.device_set) for x in state},
        "seeds each": {len(part.data) for x in state for part in x.addressable_shards},
        "shares": shares,
    }


@pytest.mark.slow
def test_eight_devices_train_and_evaluate_as_one_does(tmp_path):
    """Seeds in groups or in one, a batch that the devices divide and one that they do not."""
    flags = f"--xla_force_host_platform_device_count={DEVICES} {os.environ['XLA_FLAGS']}"
    strict = {"JAX_NUMPY_DTYPE_PROMOTION": "strict", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    with subprocess.Popen(
        [sys.executable, "-W", "error", __file__, str(tmp_path)],
        env=os.environ | strict | {"XLA_FLAGS": flags},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        alone = {case: outcome(case, tmp_path / "alone") for case in CASES}
        errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    together = pickle.loads((tmp_path / "outcomes").read_bytes())
    for case in CASES:
        one, many = alone[case], together[case]
        assert one["values"].keys() == many["values"].keys()
        for name, value in one["values"].items():
            assert many["values"][name] == pytest.approx(value, rel=1e-5), (case, name)
        for a, b in zip(one["parameters"], many["parameters"], strict=True):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-6, err_msg=case)
        assert (one["devices"], many["devices"]) == ({1}, {DEVICES})
        assert many["seeds each"] == {SEEDS_EACH[case]}
        assert many["shares"] == SHARES[case]


@pytest.mark.parametrize(
    ("seeds", "groups", "batch"),
    [(1, 1, 8), (3, 1, 8), (4, 4, 2), (6, 2, 4), (8, 8, 1), (16, 8, 1)],
)
def test_seeds_come_before_batches(monkeypatch, seeds, groups, batch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 8)
    assert layout_of(seeds) == Layout(groups, batch)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    outcomes = {case: outcome(case, folder / "together") for case in CASES}
    (folder / "outcomes").write_bytes(pickle.dumps(outcomes))
