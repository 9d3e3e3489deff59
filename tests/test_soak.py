"""Long runs: 200,000 steps with evaluations, checkpoints and logs cost no more at their end."""

import json

import pytest
from composing import TINY_A5
from nursery import Nursery

MEASURE = """
import json, os
from pathlib import Path
from experiments.loggers import LocalLogger
log = LocalLogger.log
def measured(self, records):
    log(self, records)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    with open(self._directory / "memory.jsonl", "a") as file:
        print(json.dumps([records[0].step, pages * os.sysconf("SC_PAGE_SIZE"), files]), file=file)
LocalLogger.log = measured
"""


@pytest.mark.slow
def test_memory_and_files_stay_constant(tmp_path):
    """From 10,000 steps on; 400 evaluations and as many checkpoints, each leaving two."""
    nursery = Nursery(tmp_path)
    options = [
        *TINY_A5,
        "model=rnn",
        "model.d_model=4",
        "train.batch_size=4",
        "train.mixing=none",
        "train.steps=200000",
        "train.evaluate_every=500",
        "train.stop_at=null",
        "logger=local",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    assert nursery.run(options, MEASURE) == 0, nursery.printed()
    nursery.close()
    lines = (tmp_path / "run" / "memory.jsonl").read_text().splitlines()
    measured = {step: (rss, files) for step, rss, files in map(json.loads, lines)}
    assert len(measured) == 401
    assert measured[200_000][0] < 1.05 * measured[10_000][0]
    early, late = (range(s, s + 10_000, 500) for s in (10_000, 190_500))
    # The least of twenty: a checkpoint may just be open.
    assert min(measured[s][1] for s in early) == min(measured[s][1] for s in late)
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
