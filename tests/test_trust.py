"""A configuration calls what this project has, Optax, and what the user names; nothing else."""

import sys

import pytest
import yaml
from composing import compose_run

from experiments import trust
from experiments.errors import ConfigError
from experiments.run import command

REFUSED_UNSEEN = [
    "numpy.load", "numpy.savetxt", "pathlib.Path.write_text", "pathlib.Path.unlink",
    "shutil.copyfile", "shutil.rmtree", "os.abort", "os.system", "os._exit", "subprocess.run",
    "builtins.eval", "builtins.exec", "builtins.open", "pickle.loads", "importlib.import_module",
    "antigravity.fly", "this.s", "hydra.utils.call", "hydra.utils.get_method", "jax.numpy.load",
    "equinox.tree_deserialise_leaves", "yaml.unsafe_load", "tests.composing.execute", "scripts.x.y",
    "logging.FileHandler", "http.server.test", "ctypes.CDLL", "code.interact",
]  # fmt: skip
"""By their first name: the module is not even imported."""

REFUSED = [
    "optax._src.base.jnp.load", "ssm.model.np.load", "ssm.model.jax.numpy.save",
    "tasks.a5_files.write_word_file", "tasks.a5_files.Path", "experiments.run.os.system",
    "experiments.run.main", "experiments.run.command", "experiments.results.files.atomic",
    "experiments.training.checkpoint.write", "experiments.training.checkpoint.save",
    "experiments.rundir.shutil.rmtree", "experiments.rundir.ThreadPoolExecutor", "ssm.model.Any",
    "experiments.trust.trust", "ssm", "ssm.", ".ssm", "ssm..model", "ssm.model", "ssm.nothing",
    "ssm.mixers.Nothing", "ssm.mixers.base.AbstractMixer", "ssm.model.SequenceModel.__init__",
    "ssm.model.SequenceModel.__subclasses__", "tasks.base.abc.ABC", "optax.chex.dataclass",
    "", None, 3, ["ssm.mixers.S4"], "ssm.mixers.S4 ", "ssm mixers", "ssm/mixers/S4",
]  # fmt: skip

ALLOWED = [
    "ssm.mixers.Mamba", "ssm.mixers.mamba.S6", "ssm.cde.Tsit5", "ssm.model.SequenceModel",
    "tasks.word_problem.WordProblem", "optax.adamw", "optax.warmup_cosine_decay_schedule",
    "experiments.training.optimizer.clipped_adamw", "experiments.training.train.GradientDescent",
    "experiments.loggers.LocalLogger",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_UNSEEN)
def test_other_packages_are_refused_before_anything_is_imported(name, tmp_path):
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"^task\.a\._target_: got .*trust="):
        trust.check_targets("task", {"a": {"_target_": name}})
    with pytest.raises(ConfigError, match=r"_target_: got .*; expected"):
        trust.find_target("task", name)
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", REFUSED, ids=repr)
def test_what_is_reached_by_another_way_or_has_effects_is_refused(name):
    with pytest.raises(ConfigError, match=r"^task\._target_: got "):
        trust.find_target("task", name)


@pytest.mark.parametrize("name", ALLOWED)
def test_what_a_run_is_made_of_is_allowed(name):
    assert trust.find_target("task", name).__name__ == name.rpartition(".")[2]


@pytest.mark.parametrize(
    "override",
    [
        "task._target_=pathlib.Path.write_text",
        "optimizer.learning_rate={_target_:numpy.load,file:x,allow_pickle:true}",
        "+model.mixer.solver={_target_:os.abort}",
        "logger.loggers.progress._target_=shutil.copyfile",
        "train._target_=subprocess.run",
    ],
)
def test_every_node_is_checked_before_any_is_built(override, tmp_path, monkeypatch):
    from experiments import nodes

    monkeypatch.setattr(nodes.hydra.utils, "instantiate", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(ConfigError, match=r"_target_: got .*; expected a class or function of ssm"):
        compose_run(["model=rnn", override], tmp_path)


@pytest.mark.parametrize(
    "override",
    [
        "see_also='${when:1,1,$}{oc.create:{_target_:joblib.load,filename:x}}'",
        "+model.mixer.key_='${when:1,1,$}{oc.env:HOME}'",
        "logger.loggers.wandb.project='x-${when:1,1,$}{oc.env:HOME}'",
    ],
)
def test_nothing_is_resolved_twice(override, tmp_path):
    """Text that a reference gave may look like one, and would be resolved after the checks."""
    with pytest.raises(ConfigError, match=r"expected a value without '\$\{'"):
        compose_run([override], tmp_path)


def test_a_package_that_the_user_names_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("class Mixer: ...\ndef make(): ...\nfrom os import abort\n")
    (tmp_path / "broken.py").write_text("from os import nothing_like_it\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(trust.VARIABLE, "")
    with pytest.raises(ConfigError, match="trust=mine"):
        trust.find_target("model", "mine.Mixer")
    trust.trust("mine, broken")
    assert trust.find_target("model", "mine.Mixer").__name__ == "Mixer"
    assert trust.find_target("model", "mine.make").__name__ == "make"
    with pytest.raises(ConfigError, match="function of posix"):
        trust.find_target("model", "mine.abort")
    with pytest.raises(ConfigError, match=r"importing broken fails: ImportError: cannot import"):
        trust.find_target("model", "broken.Mixer")
    with pytest.raises(ConfigError, match="mine has no Mixr; expected one of Mixer"):
        trust.find_target("model", "mine.Mixr")
    with pytest.raises(ConfigError, match=r"trust: got 'a\.b'"):
        trust.trust("a.b")


@pytest.mark.parametrize(
    "override",
    [
        "hydra.callbacks.x._target_=os.abort", "+hydra.job_logging.x=1", "hydra/launcher=slurm",
        "~hydra.callbacks", "hydra.searchpath=[file:///tmp]", "--config-dir=/tmp", "-m",
        "hydra@x=y", "logger@hydra.callbacks.x=local", "+experiment=../../evil/x",
        "task=/tmp/evil/x",
        "+experiment/../../evil=x", "task=[../x]", "+../evil=x",
        "logger.loggers.wandb.project=${oc.env:HOME}", "see_also=${oc.decode:'${oc.env:HOME}'}",
        "see_also=${${x}:HOME}", "task.group=${hydra:runtime.cwd}", "see_also=${oc.${y}:HOME}",
    ],
)  # fmt: skip
def test_a_strangers_directory_describes_a_run_and_nothing_else(override, tmp_path, capsys):
    (tmp_path / "overrides.yaml").write_text(yaml.safe_dump(["task=a5", override]))
    assert command([f"resume={tmp_path}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: resume: got {override!r} in {tmp_path}")
    assert printed.count("\n") == 1
