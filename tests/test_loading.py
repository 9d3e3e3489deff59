"""A run's directory loaded in Python: what it gives, and that a damaged or a stranger's is one
error, with nothing executed and no memory taken for what is not there."""

import json
import pickle
import re
import shutil
import struct
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from composing import TINY_A5, TINY_SIGNATURE, TINY_TRAIN, compose_run, keep

from experiments.errors import ConfigError, EnvironmentFault
from experiments.loading import load_run
from experiments.loggers import read_metrics
from experiments.results.migration import VERSION
from experiments.training.arrays import read_archive
from experiments.training.checkpoint import list_files

TRAINED = [*TINY_A5, *TINY_TRAIN, "model=rnn", "model.d_model=4", "model.dropout=0.1"]
FROZEN = ["task=area", *TINY_SIGNATURE[1:], "model=linear_cde", "model.d_model=4"]
TOKENS = jnp.array([0, 3, 1, 5])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained")
    keep(compose_run([*TRAINED, "seeds=[7,2]"], path))
    return path


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    path = tmp_path_factory.mktemp("frozen")
    keep(compose_run(FROZEN, path))
    return path


@pytest.fixture
def copied(trained, tmp_path):
    """A copy to damage."""
    return shutil.copytree(trained, tmp_path / "run")


def leaves(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_array))


def test_a_finished_run_is_its_task_models_numbers_and_words(trained):
    run = load_run(str(trained))
    assert list(run.models) == [7, 2]
    assert dict(run.steps) == {7: 2, 2: 2}
    assert (run.task.group, run.task.length) == ("S3", 4)
    assert run.config["version"] == VERSION
    assert run.summary["seeds"]["7"]["steps"] == 2
    assert run.metrics == read_metrics(trained)
    table = run.metrics_table()
    assert list(table) == ["step", "seed", "split", "metric", "value", "seconds"]
    assert table["value"] == [record.value for record in run.metrics]
    for model in run.models.values():  # no key, though it has dropout
        assert model(TOKENS).shape == (4, 6)
    assert not np.array_equal(run.models[7](TOKENS), run.models[2](TOKENS))


def test_an_unfinished_run_has_the_models_of_its_newest_whole_checkpoint(trained, copied):
    for name in ("summary.json", "model-seed7.eqx", "model-seed2.eqx"):
        (copied / name).unlink()
    finished, run = load_run(trained), load_run(copied)
    assert run.summary is None
    assert dict(run.steps) == {7: 2, 2: 2}
    for seed, model in run.models.items():
        for a, b in zip(leaves(model), leaves(finished.models[seed]), strict=True):
            np.testing.assert_array_equal(a, b)
    *_, newest = list_files(copied / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:-100])
    assert dict(load_run(copied).steps) == {7: 1, 2: 1}
    assert newest.exists()
    for path in list_files(copied / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(EnvironmentFault, match=r"checkpoints: every .* damaged.*resume="):
        load_run(copied)


def test_frozen_features_have_their_readout(frozen, tmp_path):
    run = load_run(frozen)
    x = jnp.asarray(run.task.load().validation.inputs[0])
    model, predictor = run.models[0], run.predictors[0]
    assert predictor.weights.dtype == np.float64
    expected = np.asarray(model.features(x), np.float64) @ predictor.weights + predictor.intercept
    np.testing.assert_allclose(model(x), expected, rtol=1e-4)
    begun = shutil.copytree(frozen, tmp_path / "run")
    (begun / "summary.json").unlink()
    assert list(load_run(begun).models) == [0]


def test_a_configuration_of_an_earlier_version_is_told_in_the_words_of_this_one(trained, copied):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    del config["options"]
    config["version"] = 2
    config["train"]["_target_"] = "experiments.train.GradientDescent"
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    run = load_run(copied)
    assert run.config["version"] == VERSION
    np.testing.assert_array_equal(run.models[7](TOKENS), load_run(trained).models[7](TOKENS))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def write(content):
    return lambda path: path.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def remove(path):
    path.unlink()


def extend(path):
    path.write_bytes(path.read_bytes() + b"more")


def claim(shape, descr="<f4"):
    """The header of an array that is not there, where a model's first is expected."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def replace(old, new):
    def edit(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return edit


BOMB = "a0: &a0 [0]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)

DAMAGE = {
    "no config": ("config.yaml", remove, "missing; expected a run's directory"),
    "no YAML": ("config.yaml", write("a: [}"), "damaged"),
    "other YAML": ("config.yaml", write("[1]"), "expected a mapping"),
    "an empty config": ("config.yaml", write(""), "expected a mapping"),
    "endless YAML": ("config.yaml", write("&a [*a]"), "damaged"),
    "ten billion values": ("config.yaml", write(BOMB), "anchors or aliases"),
    "a later version": ("config.yaml", replace(f"version: {VERSION}", "version: 99"), "got 99"),
    "odd seeds": ("config.yaml", replace("- 7", "- x"), "seeds: got"),
    "no summary left": ("summary.json", write("{"), "damaged"),
    "a summary of nothing": ("summary.json", write("{}"), "damaged"),
    "no metrics": ("metrics.jsonl", remove, "missing"),
    "damaged metrics": ("metrics.jsonl", write("{}\n"), "line 1"),
    "no model": ("model-seed2.eqx", remove, "missing; restore it"),
    "an empty model": ("model-seed2.eqx", write(""), "got the end of the file; expected float32"),
    "a cut model": ("model-seed2.eqx", cut, "readout.bias"),
    "a longer model": ("model-seed2.eqx", extend, "got 4 bytes after the last array"),
    "no array": ("model-seed2.eqx", write("abc"), "no header"),
    "a pickle": ("model-seed2.eqx", write(pickle.dumps([1])), "no header"),
    "an array of objects": ("model-seed2.eqx", write(claim((6, 4), "|O")), "not of numbers"),
    "400 GB": ("model-seed2.eqx", write(claim((10**11,))), "expected float32[6, 4]"),
    "less than it says": ("model-seed2.eqx", write(claim((6, 4))), "got 0 bytes of"),
    "other numbers": ("model-seed2.eqx", write(claim((6, 4), "<f8")), "got float64[6, 4]"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_one_error_that_names_it(copied, name, damage, expected):
    damage(copied / name)
    with pytest.raises(EnvironmentFault) as caught:
        load_run(copied)
    message = str(caught.value)
    assert message.startswith(f"{copied / name}: ")
    assert expected in message
    assert "\n" not in message


def test_a_model_that_the_code_no_longer_builds_is_one_error(copied):
    replace("d_model: 4", "d_model: 5")(copied / "config.yaml")
    summary = json.loads((copied / "summary.json").read_text()) | {"commit": "0123456789abcdef"}
    (copied / "summary.json").write_text(json.dumps(summary))
    message = (
        r"model-seed7.eqx: damaged, .*array .encoder.weight: got float32\[6, 4\]; expected "
        r"float32\[6, 5\]; .* use the code that the run, made at commit 0123456789ab, was of"
    )
    with pytest.raises(EnvironmentFault, match=message):
        load_run(copied)
    (copied / "summary.json").unlink()
    message = r"checkpoint-\d+.npz: .*state.params.encoder.weight: expected float32\[2, 6, 5\]"
    with pytest.raises(EnvironmentFault, match=message):
        load_run(copied)
    replace("_target_: ssm.mixers.RNN", "_target_: ssm.mixers.Elman")(copied / "config.yaml")
    with pytest.raises(ConfigError, match=r"config.yaml: model.mixer._target_: .*has no Elman"):
        load_run(copied)


class Bad:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ssm.mixers.RNN", "os.mkdir", "trust=os"),
        ("ssm.mixers.RNN", "ssm.model.np.save", "expected"),
        ("ssm.model.SequenceModel", "builtins.open", "trust=builtins"),
        ("tasks.word_problem.WordProblem", "experiments.results.files.replace", "a function of"),
        ("tasks.word_problem.WordProblem", "experiments.loggers.LocalLogger", "task"),
        ("ssm.model.SequenceModel", "ssm.block.Block", "model"),
        ("group: S3", "group: ${oc.env:HOME}", "without a reference"),
    ],
)
def test_nothing_is_called_that_is_not_trusted(copied, old, new, expected):
    replace(old, new)(copied / "config.yaml")
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        load_run(copied)
    assert str(caught.value).startswith(f"{copied / 'config.yaml'}: ")


def test_nothing_is_unpickled(copied, tmp_path):
    evil = Bad(str(tmp_path / "executed"))
    with open(copied / "model-seed7.eqx", "wb") as file:
        np.save(file, np.array([evil], object), allow_pickle=True)
    with pytest.raises(EnvironmentFault, match="not of numbers"):
        load_run(copied)
    (copied / "summary.json").unlink()
    for path in list_files(copied / "checkpoints"):
        np.savez(path, allow_pickle=True, description=np.array([evil], object))
    with pytest.raises(EnvironmentFault, match="every checkpoint is damaged"):
        load_run(copied)
    assert not (tmp_path / "executed").exists()


def test_an_archive_takes_no_more_memory_than_it_has_bytes(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(6.0).reshape(2, 3), b=np.asfortranarray(np.eye(3)), c=np.int32(4))
    with np.load(path) as expected:
        found = read_archive(path)
        assert found.keys() == set(expected.files)
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype
    np.savez_compressed(path, np.zeros(10**6))
    with pytest.raises(ValueError, match="compressed"):
        read_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", claim((10**11,)))
    with pytest.raises(ValueError, match=r"got 0 bytes of an array float32\[100000000000\]"):
        read_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", claim((1,)) + b"12345")
    with pytest.raises(ValueError, match="got more than an array"):
        read_archive(path)
