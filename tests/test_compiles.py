"""A run compiles each of its programs once, whatever the model."""

import collections
import logging
import re

import jax
import pytest
from composing import CONFIGS, TINY_A5, TINY_TRAIN, compose_run, execute

MODELS = sorted(p.stem for p in (CONFIGS / "model").glob("*.yaml"))
PROGRAMS = ("jit(init)", "jit(advance_some)", "jit(evaluate_some)")
SMALL = {"transformer": ["model.mixer.num_heads=2", "model.mixer.d_feedforward=8"]}


@pytest.mark.parametrize("model", MODELS)
def test_every_program_is_compiled_once(model, tmp_path, caplog):
    """As JAX_LOG_COMPILES=1 tells it, over three evaluations and as many dispatches or more."""
    options = [*TINY_A5, *TINY_TRAIN, f"model={model}", "model.d_model=4", *SMALL.get(model, [])]
    run = compose_run([*options, "train.steps=6", "train.evaluate_every=2"], tmp_path)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        execute(run)
    found = re.findall(r"Finished XLA compilation of (jit\([\w<>]+\))", caplog.text)
    count = collections.Counter(found)
    assert {name: count[name] for name in PROGRAMS} == dict.fromkeys(PROGRAMS, 1)
