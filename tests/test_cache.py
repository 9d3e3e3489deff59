"""Where compiled programs are kept."""

import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp
from experiments.cache import use_compilation_cache
use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.config.jax_compilation_cache_dir)
print(jax.jit(lambda x: jnp.sin(x) + 1)(1.0))
"""


def test_programs_are_kept_where_the_environment_says(tmp_path):
    def run(**environment):
        return subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PATH": "", "HOME": str(tmp_path / "home")} | environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()[0]

    home = run()
    assert home.startswith(str(tmp_path / "home/.cache/selective-ssm-cde/jax-"))
    assert list((tmp_path / "home").rglob("*-cache"))
    assert run(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine")) == str(tmp_path / "mine")
    assert list((tmp_path / "mine").glob("*-cache"))
    (tmp_path / "file").touch()
    assert run(XDG_CACHE_HOME=str(tmp_path / "file")) == "None"
