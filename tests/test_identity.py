"""What makes two runs the same, and what does not."""

import pytest
from composing import TINY_A5, compose_run

from experiments.results import identity
from experiments.results.identity import cell_of, code_version, differences, identity_of

SAME = {
    "another place": [],
    "another logger": ["logger=local"],
    "other checkpoints": ["train.checkpoint_seconds=5"],
    "something to compare with": ["see_also=nothing"],
}
OTHER = {
    "a number": ["optimizer.learning_rate=0.5"],
    "a model": ["model=rnn"],
    "more steps": ["train.steps=7000"],
}


def config(tmp_path, *more):
    return compose_run([*TINY_A5, *more], tmp_path).info.config


@pytest.mark.parametrize("more", SAME.values(), ids=SAME)
def test_what_changes_no_number_is_no_part_of_it(tmp_path, more):
    one, other = config(tmp_path), config(tmp_path / "elsewhere", *more)
    assert identity_of(one) == identity_of(other)
    assert not differences(one, other)


@pytest.mark.parametrize("more", OTHER.values(), ids=OTHER)
def test_what_changes_a_number_is(tmp_path, more):
    one, other = config(tmp_path), config(tmp_path, *more)
    assert identity_of(one) != identity_of(other)
    assert cell_of(one) != cell_of(other)


def test_seeds_are_of_the_run_and_not_of_the_cell(tmp_path):
    one, other = config(tmp_path), config(tmp_path, "seeds=[1,2]")
    assert identity_of(one) != identity_of(other)
    assert cell_of(one) == cell_of(other)


@pytest.mark.slow
def test_the_number_of_devices_is_no_part_of_it(tmp_path, nursery):
    program = """
import jax, os
from pathlib import Path
from composing import *
from experiments.results.identity import identity_of
print(jax.device_count(), identity_of(compose_run(TINY_A5, Path("x")).info.config), flush=True)
os._exit(0)
"""
    flags = "--xla_force_host_platform_device_count=3"
    assert nursery.run([], program, XLA_FLAGS=flags) == 0, nursery.printed()
    assert nursery.printed().split() == ["3", identity_of(config(tmp_path))]


def test_other_code_is_another_run(tmp_path, monkeypatch):
    before = config(tmp_path)
    one = identity_of(before)
    monkeypatch.setattr(identity, "code_version", lambda: "other")
    assert identity_of(before) != one
    assert len(code_version()) == 8


def test_a_sweep_keeps_the_code_it_was_started_with(tmp_path, monkeypatch):
    before = config(tmp_path)
    one = identity_of(before)
    monkeypatch.setenv(identity.SWEEP_CODE, code_version())
    monkeypatch.setattr(identity, "code_version", lambda: "edited since")
    assert identity_of(before) == one


def test_differences_name_the_keys_and_both_values(tmp_path):
    one, other = config(tmp_path), config(tmp_path, "optimizer.learning_rate=0.5", "model=rnn")
    found = differences(one, other)
    assert "optimizer.learning_rate: " in " ".join(found)
    assert any(line.endswith("now 0.5") for line in found)
    assert "model.mixer.d_state: 4, now 'absent'" in found
    quiet = config(tmp_path, "logger=local", "train.checkpoint_seconds=1", "see_also=x")
    assert not differences(one, quiet)
