"""Wrong input at the command line: an exit code, and one line that says what is wrong and valid.

A mistake in the command is 2, a fault of the environment (a file, a disk, a device) is 1. Most
cases run in this process, through the function that is the whole command.
"""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from composing import TINY_A5, TINY_SIGNATURE, TINY_TRAIN
from hydra._internal.hydra import Hydra

from experiments.rundir import RunDirectory
from tasks.a5_files import write_word_file
from tasks.groups import parse_group

with warnings.catch_warnings():  # the type checker's, of how OmegaConf defines its classes
    warnings.simplefilter("ignore", DeprecationWarning)
    import experiments.run

ROOT = Path(__file__).parents[1]
READOUT = ["task=area", "model=linear_cde"]
FULL_MAMBA = ["model.mixer.variant=full"]
SMALL_RUN = [*TINY_A5, *TINY_TRAIN, "model=rnn", "model.d_model=4", "logger=local"]
FINISHED: list[Path] = []
WORDS = ["task=word_problem", "task.group=S3", "task.length=3", "task.path=words.csv"]

# What is given, and what the message must say: the key in full, the value, and what is valid.
USAGE: dict[str, tuple[list[str], list[str]]] = {
    # Keys and options that do not exist.
    "a misspelt key": (["task.lenght=4"], ["task.lenght", "auxiliary_length"]),
    "a misspelt group": (["taks=a5"], ["taks", "task, model"]),
    "a misspelt deep key": (["model.mixer.d_stat=4"], ["model.mixer.d_stat", "d_state"]),
    "a new key at the top": (["+seed=3"], ["seed: unknown key", "seeds"]),
    "a new key, forced": (["++model.detph=3"], ["model.detph: unknown key", "depth"]),
    "a new deep key": (["+train.pace.fast=1"], ["train.pace: unknown key", "steps"]),
    "a new key of a mixer": (["+model.mixer.d_stat=3"], ["model.mixer.d_stat: unknown", "d_state"]),
    "a key of another optimizer": (
        ["optimizer=adam", "+optimizer.momentun=0.9"],
        ["optimizer.momentun: unknown key", "learning_rate"],
    ),
    "a key that the program sets": (["+model.n_outputs=3"], ["model.n_outputs: unknown key"]),
    "a mixer's width": (["+model.mixer.d_model=8"], ["model.mixer.d_model: unknown", "d_state"]),
    "a key of Hydra": (["hydra.nonsense=1"], ["hydra.nonsense"]),
    "a model": (["model=lstm"], ["model", "lstm", "transformer"]),
    "a task": (["task=a6"], ["task", "a6", "signature"]),
    "an optimizer": (["optimizer=sgd"], ["optimizer", "sgd", "adamw"]),
    "a logger": (["logger=tensorboard"], ["logger", "tensorboard", "local"]),
    "an experiment": (
        ["+experiment=figure3/mamba"],
        ["experiment", "figure3/mamba", "figure2/mamba"],
    ),
    "a model that an experiment lacks": (
        ["+experiment=figure2/s5"],
        ["experiment", "figure2/s5", "figure2/s4"],
    ),
    "an experiment without its plus": (["experiment=figure2/mamba"], ["+experiment=figure2/mamba"]),
    "a preset": (["quick=fast"], ["quick: got 'fast'", "signature"]),
    "a preset of a pair": (["quick/pair=a5-rnn2"], ["quick/pair: got 'a5-rnn2'", "-mamba"]),
    "a launcher": (["hydra/launcher=cloud"], ["hydra/launcher", "cloud", "slurm"]),
    "two models": (["model=[mamba,s4]"], ["model=[mamba,s4]", "expected one option"]),
    "no model": (["model=null"], ["model=null", "expected one option"]),
    "a number for a task": (["task=3"], ["task=3", "expected one option"]),
    "a deleted model": (["~model"], ["~model", "expected one option"]),
    "a deleted model of an experiment": (
        ["+experiment=figure1/linear_cde", "~model"],
        ["task, model: got area, None", "one option"],
    ),
    "a deleted procedure": (["~train"], ["train: got", "expected an option"]),
    "deleted seeds": (["~seeds"], ["seeds: got no value"]),
    "a deleted width": (["~model.d_model"], ["model: ssm.model.SequenceModel needs d_model"]),
    # What is no override at all.
    "no value": (["task.length"], ["task.length", "EQUAL", "key=value"]),
    "no key": (["=3"], ["=3"]),
    "an open bracket": (["seeds=[0,1"], ["seeds=[0,1", "key=value"]),
    "a hole in a list": (["task.word=[1,,2]"], ["task.word=[1,,2]", "key=value"]),
    "an open quote": (["task.group='A5"], ["task.group='A5", "key=value"]),
    "an open reference": (["task.length=${task.k"], ["task.length=${task.k", "key=value"]),
    "a sweep without -m": (["task.length=3,4"], ["task.length", "3,4", "[3,4]", "-m"]),
    "an unknown flag": (["--fast"], ["--fast"]),
    "a reference to nothing": (["task.length=${task.k}"], ["task.length: got ${task.k}", "task.k"]),
    "a value left out": (["task.length=???"], ["task.length: got no value"]),
    # Values of another type.
    "text for an integer": (
        ["model.mixer.d_state=many"],
        ["model.mixer.d_state: got 'many'", "int"],
    ),
    "a fraction for an integer": (["model.depth=1.5"], ["model.depth: got 1.5", "int"]),
    "a boolean for an integer": (["train.steps=true"], ["train.steps: got True", "int"]),
    "a boolean or null": (["model.mixer.dt_rank=true"], ["model.mixer.dt_rank: got True", "null"]),
    "a list for an integer": (["model.depth=[1,2]"], ["model.depth: got [1, 2]", "int"]),
    "a mapping for an integer": (["model.depth={a: 1}"], ["model.depth: got {'a': 1}", "int"]),
    "null for an integer": (["train.batch_size=null"], ["train.batch_size: got None", "int"]),
    "a number for a boolean": (["model.norm=1"], ["model.norm: got 1", "bool"]),
    "a number for a group": (["task.group=5"], ["task.group: got 5", "str"]),
    "a number for a mixer": (["model.mixer=3"], ["model.mixer: got 3"]),
    "a number for a logger": (
        ["logger.loggers.local=3"],
        ["logger.loggers.local: got 3", "Logger"],
    ),
    "text for a rate": (["optimizer.learning_rate=fast"], ["optimizer.learning_rate: got 'fast'"]),
    "text for steps that others use": (["train.steps=many"], ["train.steps: got 'many'", "int"]),
    "text for a depth that others use": (
        ["+experiment=figure2/mamba", "model.depth=deep"],
        ["model.depth: got 'deep'", "int"],
    ),
    "a letter that is text": (["task=signature", "task.word=[1,a]"], ["task.word[1]: got 'a'"]),
    "an activation": (["model.activation=tanh"], ["model.activation: got 'tanh'", "'gelu'"]),
    "a mixing": (["train.mixing=both"], ["train.mixing: got 'both'", "'alternate'"]),
    "a procedure": (["procedure=guess"], ["procedure: got 'guess'", "'readout'"]),
    "a gate": (
        ["model=linear_cde", "model.mixer.gate_xi=value"],
        ["model.mixer.gate_xi: got 'value'", "'integral'"],
    ),
    "a mode of W&B": (["logger.loggers.wandb.mode=on"], ["logger.loggers.wandb", "on", "offline"]),
    "a module that is missing": (["task._target_=tasks.none.Nothing"], ["tasks.none.Nothing"]),
    "a class that is missing": (
        ["model.mixer._target_=ssm.mixers.Nothing"],
        ["model.mixer._target_", "ssm.mixers.Nothing"],
    ),
    "an abstract class": (
        ["model.mixer._target_=ssm.mixers.AbstractMixer"],
        ["model.mixer._target_: got 'ssm.mixers.AbstractMixer'", "not abstract"],
    ),
    "an optimizer for a task": (
        ["task={_target_: optax.sgd, learning_rate: 1.0}"],
        ["task", "learning_rate"],
    ),
    "a mixer for a solver": (
        ["model=linear_cde", "model.mixer.solver._target_=ssm.mixers.RNN"],
        ["model.mixer.solver: ssm.mixers.RNN needs d_model"],
    ),
    # Numbers out of range, infinite or not numbers.
    "a rate of NaN": (
        ["optimizer.learning_rate=nan"],
        ["optimizer.learning_rate: got nan", "above 0"],
    ),
    "an infinite rate": (["optimizer.learning_rate=inf"], ["optimizer.learning_rate: got inf"]),
    "a negative rate": (["optimizer.learning_rate=-0.1"], ["optimizer.learning_rate: got -0.1"]),
    "a negative rate in a schedule": (
        ["optimizer.learning_rate.peak_value=-1"],
        ["optimizer.learning_rate.peak_value: got -1"],
    ),
    "a schedule without steps": (
        ["optimizer.learning_rate.decay_steps=0"],
        ["optimizer.learning_rate", "decay_steps"],
    ),
    "a moment of 1": (["optimizer.b1=1"], ["optimizer.b1: got 1", "below 1"]),
    "a negative decay": (["optimizer.weight_decay=-1"], ["optimizer.weight_decay: got -1"]),
    "a threshold of NaN": (["train.stop_at=nan"], ["train.stop_at: got nan", "finite"]),
    "an infinite step": (["model.mixer.dt_max=inf"], ["model.mixer.dt_max: got inf", "finite"]),
    "an ε of NaN": (["task.log_epsilon=nan"], ["task.log_epsilon: got nan", "finite"]),
    "steps": (["train.steps=0"], ["train.steps: got 0", "expected 1 to"]),
    "a batch": (["train.batch_size=-4"], ["train.batch_size: got -4", "expected 1 to"]),
    "an interval": (["train.evaluate_every=0"], ["train.evaluate_every: got 0", "expected 1 to"]),
    "a batch of features": ([*READOUT, "readout.batch_size=0"], ["readout.batch_size: got 0"]),
    "a depth": (["model.depth=0"], ["model.depth: got 0", "1 to"]),
    "an endless depth": (["model.depth=1000000000"], ["model.depth: got 1000000000", "1 to"]),
    "an endless width": (["model.d_model=9999999999"], ["model.d_model: got 9999999999", "1 to"]),
    "a width": (["model.d_model=-1"], ["model.d_model: got -1", "1 to"]),
    "a state": (["model.mixer.d_state=0"], ["model.mixer.d_state: got 0", "1 to"]),
    "an endless convolution": (
        [*FULL_MAMBA, "model.mixer.d_conv=9999999"],
        ["model.mixer.d_conv: got 9999999", "1 to"],
    ),
    "a block that is too large": (
        ["model=s5", "model.mixer.d_state=100000"],
        ["model.mixer.d_state, model.mixer.blocks: got 100000, 1", "at most"],
    ),
    "a dropout": (["model.dropout=1"], ["model.dropout: got 1", "[0, 1)"]),
    "a dropout beside another": (
        ["model=transformer", "model.dropout=1.5"],
        ["model.dropout: got 1.5", "[0, 1)"],
    ),
    "a dropout of the mixer": (
        ["model=transformer", "model.mixer.dropout=-1"],
        ["model.mixer.dropout: got -1", "[0, 1)"],
    ),
    "a tolerance": (
        ["+experiment=figure1/linear_cde", "model.mixer.solver.rtol=0"],
        ["model.mixer.solver.rtol: got 0", "positive"],
    ),
    "a length": (["task.length=1"], ["task.length", "at least 2", "got 1"]),
    "an endless length": (["task.length=1000000000000"], ["task.length", "1,000,000,000,000"]),
    "a share": (["task.train_fraction=1.5"], ["task.train_fraction", "between 0 and 1", "1.5"]),
    "a share that leaves nothing": (
        ["task.train_fraction=0.000001"],
        ["task.train_fraction", "both sides", "1e-06"],
    ),
    "paths without end": (
        ["task=area", "task.n_paths=1000000000000"],
        ["task.n_paths", "1,000,000,000,000"],
    ),
    "a seed of the data": (["task=area", "task.seed=-1"], ["task.seed", "at least 0", "got -1"]),
    # Seeds.
    "no seeds": (["seeds=[]"], ["seeds: got []", "different integers"]),
    "a seed twice": (["seeds=[1,2,1]"], ["seeds: got [1, 2, 1]", "different integers"]),
    "a negative seed": (["seeds=[-1]"], ["seeds: got [-1]", "0 to 2³²−1"]),
    "a seed that is too large": (["seeds=[4294967296]"], ["seeds: got [4294967296]", "2³²−1"]),
    "a seed that is text": (["seeds=[a]"], ["seeds", "[a]", "nteger"]),
    "a seed that is a fraction": (["seeds=[1.5]"], ["seeds", "[1.5]", "nteger"]),
    "one number for seeds": (["seeds=3"], ["seeds", "3", "list"]),
    # Groups and words.
    "a group that is too large": (["task.group=A99"], ["task.group", "5,040", "'A99'"]),
    "an empty cyclic group": (["task.group=Z0"], ["task.group", "n >= 1", "'Z0'"]),
    "half a product": (["task.group=A4x"], ["task.group", "joined by 'x'", "'A4x'"]),
    "a sporadic group": (["task.group=M11"], ["task.group", "Sn", "'M11'"]),
    "a group of one": (["task.group=S1"], ["task.group", "two elements", "'S1'"]),
    "a letter above the dimension": (
        ["task=signature", "task.word=[1,5]"],
        ["task.word", "1 to dimension=2", "[1, 5]"],
    ),
    "no letters": (["task=signature", "task.word=[]"], ["task.word", "one or more", "[]"]),
    "a word that is too long": (
        ["task=signature", "task.word=[1,1,1,1,1,1,1,1,1,1,1,1,1]"],
        ["task.word", "12", "13"],
    ),
    "a word that says nothing new": (
        ["task=signature", "task.word=[1,1]", "task.target=log_signature"],
        ["task.word", "log_signature", "(1, 1)"],
    ),
    "an alternating sum over equal letters": (
        ["task=signature", "task.word=[1,2,1]", "task.target=alternating"],
        ["task.word", "alternating", "(1, 2, 1)"],
    ),
    "a target by its former name": (
        ["task=signature", "task.target=antisymmetric"],
        ["task.target", "'antisymmetric'", "'coordinate'", "'log_signature'", "'alternating'"],
    ),
    # What does not go together.
    "a pooled token model": (["model.pooling=mean"], ["model.pooling: got 'mean'", "'none'"]),
    "an unpooled regressor": (
        ["task=area", "model.pooling=none"],
        ["model.pooling: got 'none'", "'last'"],
    ),
    "least squares on tokens": (["procedure=readout"], ["procedure: got 'readout'", "'train'"]),
    "least squares at every position": (
        ["task=area", "model=mamba", "procedure=readout", "model.pooling=none"],
        ["model.pooling: got 'none'", "'last'"],
    ),
    "tokens without an encoder": (
        ["+experiment=figure1/linear_cde", "task=a5", "published=null", "~task.n_paths"],
        ["model: vocabulary: got 60", "real inputs"],
    ),
    "blocks of a model without": (
        [*READOUT, "model.depth=2"],
        ["model.depth: unknown key", "ssm.model.MixerReadout takes mixer, d_model"],
    ),
    "a step of time": (
        ["model=linear_cde", "model.mixer.dt=-1"],
        ["model.mixer.dt: got -1", "positive number or '1/length'"],
    ),
    "a scan that the structure does not admit": (
        ["model.mixer.form=convolution"],
        ["form: got 'convolution' for Decay", "'chunked'"],
    ),
    "an unknown scan": (["model.mixer.form=fast"], ["model.mixer.form: got 'fast'", "'auto'"]),
    "a later version": (["version=4"], ["version: got 4", "expected 3"]),
    "heads": (
        ["model=transformer", "model.mixer.num_heads=7"],
        ["model.mixer.num_heads: got 7", "divisor of d_model"],
    ),
    "an odd width with positions": (
        ["model=rnn", "model.positions=true", "model.d_model=7"],
        ["model.d_model: got 7", "even"],
    ),
    "an odd state": (
        ["model=s5", "model.mixer.d_state=7"],
        ["model.mixer.d_state, model.mixer.blocks: got 7, 1", "multiple", "conjugate pairs"],
    ),
    "steps in the wrong order": (
        ["model.mixer.dt_min=1"],
        ["model.mixer.dt_min, model.mixer.dt_max: got 1, 0.1", "dt_min <= dt_max"],
    ),
    "an auxiliary length": (
        ["task.auxiliary_length=3"],
        ["task.auxiliary_length", "below length=3", "got 3"],
    ),
    "an auxiliary share": (
        ["task.auxiliary_fraction=0"],
        ["task.auxiliary_fraction", "above 0", "got 0"],
    ),
    "no auxiliary stream": (
        [*TINY_A5, "model=rnn", "task.auxiliary_length=null"],
        ["train.mixing: got 'joint'", "'none'"],
    ),
    "mixing on paths": (
        [*TINY_SIGNATURE, "train.mixing=joint"],
        ["train.mixing: got 'joint'", "'none'"],
    ),
    "a batch above the data": (
        [*TINY_A5, "train.batch_size=4000"],
        ["train.batch_size: got 4000", "320"],
    ),
    "an auxiliary batch above the data": (
        [*TINY_A5, "model=rnn", "train.auxiliary_batch_size=37"],
        ["train.auxiliary_batch_size: got 37", "36"],
    ),
    "more features than examples": (
        [*READOUT, "task.n_paths=200"],
        ["model.d_model: got 256", "160 training examples"],
    ),
    "a depth the paper lacks": (
        ["+experiment=figure2/mamba", "model.depth=5"],
        ["model.depth", "got 5", "1 to 4"],
    ),
    # Resuming.
    "a directory that is not there": (["resume=nowhere"], ["resume: got 'nowhere'", "earlier run"]),
    "a directory without a run": (["resume=."], ["resume: got '.'", "earlier run"]),
    "two directories": (["resume=a", "resume=b"], ["resume: got a b", "one run's directory"]),
    "a sweep to resume": (["-m", "resume=a"], ["resume: got a", "one run's directory"]),
}


def write_words(*edits: tuple[str, str]) -> Callable[[Path], None]:
    """Writes `words.csv`, 40 sequences of S3 of length 3, with pieces of its text replaced."""

    def write(directory: Path) -> None:
        path = directory / "words.csv"
        inputs = np.stack(np.unravel_index(np.arange(40) + 60, (6, 6, 6)), axis=1)
        write_word_file(path, 7, inputs, parse_group("S3").running_products(inputs))
        text = path.read_text()
        for old, new in edits:
            assert old in text
            text = text.replace(old, new, 1)
        path.write_bytes(text.encode("latin-1"))

    return write


def write_bytes(name: str, contents: bytes) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(contents) and None


def finish_a_run(directory: Path) -> None:
    """Leaves a run that ended well in `directory/run`; it is computed once."""
    if not FINISHED:
        assert experiments.run.command([*SMALL_RUN, f"hydra.run.dir={directory}/kept"]) == 0
        FINISHED.append(directory / "kept")
    shutil.copytree(FINISHED[0], directory / "run")


def leave_checkpoints(*, damaged: bool) -> Callable[[Path], None]:
    """A run that stopped before its end, with two checkpoints."""

    def leave(directory: Path) -> None:
        finish_a_run(directory)
        (directory / "run/summary.json").unlink()
        files = sorted((directory / "run/checkpoints").glob("*.npz"))
        assert files
        for path in files if damaged else []:
            path.write_bytes(path.read_bytes()[:-100])
        if not damaged:
            (directory / "run/metrics.jsonl").write_bytes(b"")

    return leave


# What was done before, what is given, and what the message must say.
ENVIRONMENT: dict[str, tuple[Callable[[Path], object], list[str], list[str]]] = {
    "no file": (lambda d: None, WORDS, ["task.path", "words.csv", "No such file"]),
    "a directory for a file": (
        lambda d: (d / "words.csv").mkdir(),
        WORDS,
        ["task.path", "words.csv", "directory"],
    ),
    "an empty file": (write_bytes("words.csv", b""), WORDS, ["words.csv, line 1", "seed,input"]),
    "a header alone": (
        write_bytes("words.csv", b"seed,input,target\n"),
        WORDS,
        ["words.csv, line 2", "no rows"],
    ),
    "a pointer of Git LFS": (
        write_bytes("words.csv", b"version https://git-lfs.github.com/spec/v1\noid 1\n"),
        WORDS,
        ["words.csv, line 1", "Git LFS"],
    ),
    "bytes": (
        write_bytes("words.csv", bytes(range(256))),
        WORDS,
        ["words.csv, line 1", "seed,input"],
    ),
    "a bad header": (
        write_words(("input", "inputs")),
        WORDS,
        ["words.csv, line 1", "'seed,input,target'"],
    ),
    "a column too many": (
        write_words(("7,1 4 1,", "7,1 4 1,1,")),
        WORDS,
        ["words.csv, line 3", "seed,a b c,x y z"],
    ),
    "a token too many": (
        write_words(("7,1 4 1,", "7,1 4 1 0,")),
        WORDS,
        ["words.csv, line 3", "equally many"],
    ),
    "not ASCII": (
        write_words(("7,1 4 1,", "7,1 é 1,")),
        WORDS,
        ["words.csv, line 3", "seed,a b c,x y z"],
    ),
    "a token out of range": (
        write_words(("7,1 4 1,", "7,1 6 1,")),
        WORDS,
        ["words.csv, line 3", "0 to 5", "got 6"],
    ),
    "a wrong product": (
        write_words(("7,1 4 1,", "7,1 4 2,")),
        WORDS,
        ["words.csv, line 3", "running products"],
    ),
    "a row twice": (
        lambda d: write_words()(d) or repeat_a_row(d / "words.csv"),
        WORDS,
        ["words.csv, line 42", "repeat those of line 2"],
    ),
    "a file in the way of a run": (
        write_bytes("file", b""),
        [*SMALL_RUN, "hydra.run.dir=file/run"],
        ["file", "irectory"],
    ),
    "a file for a run's directory": (
        write_bytes("file", b""),
        [*SMALL_RUN, "hydra.run.dir=file"],
        ["file", "xists"],
    ),
    "checkpoints that are all damaged": (
        leave_checkpoints(damaged=True),
        SMALL_RUN,
        ["run/checkpoints", "damaged"],
    ),
    "metrics cut short": (
        leave_checkpoints(damaged=False),
        SMALL_RUN,
        ["metrics.jsonl", "shorter"],
    ),
    "a damaged summary": (
        lambda d: finish_a_run(d) or (d / "run/summary.json").write_text("{"),
        SMALL_RUN,
        ["run/summary.json"],
    ),
    "a damaged configuration": (
        lambda d: finish_a_run(d) or (d / "run/config.yaml").write_text("{"),
        SMALL_RUN,
        ["run/config.yaml"],
    ),
}


def repeat_a_row(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[1]]))


@pytest.fixture
def say(own_errors, monkeypatch, tmp_path, capfd):
    """The command in an empty directory: its exit code and the lines of its errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(experiments.run, "use_compilation_cache", lambda: None)
    # Hydra composes a first time to look for hydra.mode, which no case sets.
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    precision = jax.config.jax_default_matmul_precision

    def command(arguments: list[str]) -> tuple[int, list[str], str]:
        # What is given last counts: a case that is wrongly accepted is over soon.
        flags = [a for a in arguments if a.startswith("-")]
        others = [a for a in arguments if a not in flags]
        given = [*flags, *TINY_TRAIN, f"hydra.run.dir={tmp_path}/run", *others]
        capfd.readouterr()
        code = experiments.run.command(given)
        text = capfd.readouterr().err
        return code, [line for line in text.splitlines() if line.startswith("error: ")], text

    yield command
    jax.config.update("jax_default_matmul_precision", precision)


@pytest.mark.parametrize("name", USAGE)
def test_a_mistake_in_the_command_is_one_line(name, say):
    arguments, parts = USAGE[name]
    code, errors, text = say(arguments)
    assert (code, len(errors)) == (2, 1), text
    assert not [part for part in parts if part not in errors[0]], errors
    assert "Traceback" not in text
    assert str(ROOT) not in errors[0]


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_fault_of_the_environment_is_one_line(name, say, tmp_path):
    prepare, arguments, parts = ENVIRONMENT[name]
    prepare(tmp_path)
    code, errors, text = say(arguments)
    assert (code, len(errors)) == (1, 1), text
    assert not [part for part in parts if part not in errors[0]], errors
    assert "Traceback" not in text


def test_a_directory_of_another_run_is_left_alone(say, tmp_path):
    finish_a_run(tmp_path)
    before = (tmp_path / "run/summary.json").read_bytes()
    code, errors, _ = say([*SMALL_RUN, "task.seed=5"])
    assert (code, len(errors)) == (2, 1)
    assert "task.seed: 0, now 5" in errors[0]
    assert (tmp_path / "run/summary.json").read_bytes() == before


def test_a_directory_in_use_is_left_alone(say, tmp_path):
    with RunDirectory(tmp_path / "run", {}):
        code, errors, _ = say(SMALL_RUN)
    assert (code, len(errors)) == (1, 1)
    assert "in use by process" in errors[0]


@pytest.mark.parametrize("saved", ["[", "a: 1", "[1, 2]", "\xff"])
def test_a_damaged_command_cannot_be_resumed(saved, say, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/overrides.yaml").write_bytes(saved.encode("latin-1"))
    code, errors, _ = say(["resume=old"])
    assert (code, len(errors)) == (2, 1)
    assert "resume: got 'old'" in errors[0]


def test_a_wrong_cell_of_a_sweep_is_one_line_each(say):
    code, errors, text = say(["-m", *SMALL_RUN, "task.length=1,0", "hydra.sweep.dir=sweep"])
    assert code == 1
    assert [line.rpartition("got ")[2] for line in errors] == ["1.", "0."]
    assert "Traceback" not in text


@pytest.mark.parametrize("arguments", [["task.lenght=4"], ["task.length=1"]])
def test_a_traceback_is_there_if_asked_for(arguments, say, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, errors, text = say(arguments)
    assert (code, len(errors)) == (2, 1)
    assert text.count("Traceback (most recent call last)") >= 1


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_device_that_is_not_there(platform, tmp_path):
    """JAX looks for devices once in a process, so this one has its own."""
    if jax.default_backend() == "gpu" and platform == "cuda":
        pytest.skip("there is one")
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments/run.py"), *SMALL_RUN],
        env=os.environ | {"JAX_PLATFORMS": platform},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert (done.returncode, len(errors)) == (1, 1), done.stderr
    assert f"JAX_PLATFORMS={platform}" in errors[0]
    assert "expected cpu" in errors[0]
    assert "Traceback" not in done.stderr
