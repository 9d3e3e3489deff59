"""A seed's numbers as W&B has them: one row a step, and the best so far."""

import math

from experiments.results.files import Record


class History:
    """The rows and the best values that W&B should hold of one seed.

    A row has the keys `step`, `seconds`, and `split/metric` for each record of its step; the rows
    are in the order in which their steps first came. `best` has `split/metric_best` for every
    split but train: the highest accuracy, the lowest of anything else.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}
        self._by_step: dict[int, dict[str, float]] = {}

    def add(self, record: Record) -> None:
        """Takes a record; one that came before is replaced, in its place."""
        if record.step not in self._by_step:
            self._by_step[record.step] = {"step": record.step}
            self.rows.append(self._by_step[record.step])
        key = f"{record.split}/{record.metric}"
        self._by_step[record.step] |= {"seconds": record.seconds, key: record.value}
        if record.split == "train" or not math.isfinite(record.value):
            return
        better = max if record.metric.startswith("accuracy") else min
        best = self.best.get(f"{key}_best", record.value)
        self.best[f"{key}_best"] = better(best, record.value)

    def upto(self, step: int) -> int:
        """How many rows have this step or an earlier one."""
        return sum(row["step"] <= step for row in self.rows)
