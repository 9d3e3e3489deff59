"""Configurations of an earlier version say what they said, in today's words."""

from pathlib import Path

import pytest
import yaml

from experiments.results.identity import flatten
from experiments.results.migration import VERSION, migrated

RESULTS = Path(__file__).parents[1] / "results"
KEPT = sorted(RESULTS.rglob("config.yaml"))


def first_version(**mixer):
    return {
        "task": {"_target_": "tasks.signature.SignatureTask", "target": "antisymmetric"},
        "model": {"d_model": 4, "encode": True, "bare": False, "depth": 2, "mixer": mixer},
        "seeds": [0],
        "procedure": "train",
    }


def test_what_moved():
    config = migrated(first_version(_target_="ssm.mixers.S5", d_state=8))
    assert config["version"] == VERSION
    assert config["task"]["target"] == "log_signature"
    assert config["model"] == {
        "d_model": 4,
        "depth": 2,
        "mixer": {
            "_target_": "ssm.mixers.S5", "d_state": 8,
            "form": "auto", "log_real": True, "real_normal": True,
        },
    }  # fmt: skip


def test_a_mixer_that_reads_the_path_itself_is_a_model_of_its_own():
    old = first_version(
        _target_="ssm.mixers.LinearCDE", solver={"_target_": "ssm.cde.Euler", "form": "sequential"}
    )
    old["model"] |= {"encode": False, "bare": True, "activation": "identity", "pooling": "last"}
    assert migrated(old)["model"] == {
        "_target_": "ssm.model.MixerReadout",
        "d_model": 4,
        "mixer": {
            "_target_": "ssm.mixers.LinearCDE", "solver": {"_target_": "ssm.cde.Euler"},
            "dt": "1/length",
        },
    }  # fmt: skip


def test_the_old_data_are_left_alone_and_a_second_time_changes_nothing():
    old = first_version(_target_="ssm.mixers.Mamba")
    before = flatten(old)
    once = migrated(old)
    assert flatten(old) == before
    assert migrated(once) == once


@pytest.mark.parametrize("wrong", [{"version": 99}, {"version": "2"}, {"model": {}}, [], None])
def test_what_is_no_configuration_is_refused(wrong, own_errors):
    with pytest.raises(ValueError, match=r"expected 1 to|it has no "):
        migrated(wrong)


def test_kept_results_are_unedited_and_only_named_keys_move():
    """Every difference between a kept configuration and today's form is one that is documented."""
    assert len(KEPT) > 50
    moved = set()
    for path in KEPT:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert config.get("version", 1) in (1, VERSION)
        before, after = flatten(config), flatten(migrated(config))
        unused = ("readout.",) if config["procedure"] == "train" else ("train.", "optimizer.")
        moved |= {
            k
            for k in {**before, **after}
            if before.get(k, "absent") != after.get(k, "absent") and not k.startswith(unused)
        }
    assert moved <= {
        *("version", "model._target_", "model.encode", "model.bare"),
        *("model.depth", "model.activation", "model.dropout", "model.norm", "model.pooling"),
        *("model.positions", "model.products"),
        *("model.mixer.form", "model.mixer.dt", "model.mixer.log_real", "model.mixer.real_normal"),
        "model.mixer.solver.form",
        *("options.task", "options.model"),
        *(f"{node}._target_" for node in ("train", "readout", "optimizer")),
    }
