"""Strictness for every test: no silent promotion of dtypes or ranks, and float64 on request."""

import os
import platform
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("WANDB_MODE", "disabled")
# Most of the time is compilation, of many small programs that each run once.
# A flag that XLA does not know would stop it, so the others are for the versions they were seen in.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        + " --xla_cpu_max_isa=AVX" * (platform.machine() == "x86_64")
    )
    * version("jaxlib").startswith("0.10."),
)

import jax
import jaxtyping
import pytest
from nursery import Nursery

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """All processes of a session share what they compile; the next session starts without it."""
    if not hasattr(config, "workerinput") and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        directory = tempfile.mkdtemp(prefix="jax-cache-")
        config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = directory
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_collection_modifyitems(items):
    """Tests of minutes are for `make test-slow`."""
    if not os.environ.get("SLOW_TESTS"):
        skip = pytest.mark.skip(reason="slow: make test-slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    """The command in processes that start at once."""
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()


@pytest.fixture
def x64():
    """Runs a test in float64, for oracles that must agree to many digits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def own_errors():
    """The code as users have it, whose own errors come before those of the type checker."""
    enabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", enabled)
