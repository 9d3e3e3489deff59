# `make` lists the commands. Needs GNU make and Python 3.11 or newer; everything else goes into .venv.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup test test-slow test-slurm a5 figures figure1 figure2 lint format benchmark lock clean FORCE

# The environment is .venv, and .venv/.locked-NAME says that requirements NAME are in it, completely.
# CUDA is remembered: after `make setup CUDA=13` the other commands keep that environment.
PYTHON ?=
CUDA   ?= $(patsubst .venv/.locked-cuda%,%,$(wildcard .venv/.locked-cuda*))
ARGS   ?=
UV     ?= $(shell command -v uv 2>/dev/null)

lock_file := requirements$(if $(CUDA),-cuda$(CUDA)).lock
stamp     := .venv/.locked-$(if $(CUDA),cuda$(CUDA),cpu)
python    := .venv/bin/python
args      = $(if $(ARGS), $(ARGS))

ifeq ($(wildcard $(lock_file)),)
ifneq ($(CUDA),)
$(error CUDA=$(CUDA): there is no $(lock_file); choose CUDA=12 or CUDA=13, or leave CUDA out)
endif
endif

help:
	@echo 'make setup             create .venv and install the locked requirements (CUDA=13 or CUDA=12 for NVIDIA GPUs,'
	@echo '                       PYTHON=python3.12 for another Python)'
	@echo 'make test              run the tests          make test ARGS="-k scan"'
	@echo 'make test-slow         tests of minutes: 25 kills, 200,000 steps, long outages'
	@echo 'make test-slurm        sweeps on a Slurm of one node, as root; see docs/cluster.md'
	@echo 'make a5                train Mamba on A5      make a5 ARGS="seeds=[1]"'
	@echo 'make figures           run what is missing of the small study (or scale=paper), and draw Figures 1 and 2;'
	@echo '                       make figure1, make figure2: one of them'
	@echo 'make lint              ruff check, ruff format --check, mypy'
	@echo 'make format            let ruff sort imports and format'
	@echo 'make benchmark         speed and memory      make benchmark ARGS="--only selective_scan"'
	@echo 'make lock              write the lock files again; ARGS=--upgrade for newer versions'
	@echo 'make clean             remove .venv, builds and caches; results stay'

setup: $(stamp)
	@echo "Environment: .venv, $$($(python) --version), $(lock_file)"

# If a step fails, the stamp is missing and the next `make` goes on from there; a half-made .venv, which could be
# the system's Python in disguise, is made again.
$(stamp): $(lock_file) pyproject.toml $(if $(shell test -x $(python) && echo yes),,FORCE)
	@rm -f .venv/.locked-*
	@if ! { $(python) -c 'import sys; sys.exit(sys.prefix == sys.base_prefix)' && $(python) -m pip --version; } >/dev/null 2>&1; then \
	    chosen=; for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	        if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then chosen=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$chosen" ]; then \
	        echo 'error: expected Python 3.11 or newer, got $(or $(PYTHON),python3): '"$$($(or $(PYTHON),python3) --version 2>&1 | tail -n 1)" >&2; \
	        echo '       name another one: make setup PYTHON=/path/to/python3.12' >&2; exit 1; \
	    fi; \
	    if ! $$chosen -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	        echo "error: $$chosen cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv" >&2; exit 1; \
	    fi; \
	    echo "Creating .venv with $$chosen ($$($$chosen --version))"; \
	    $$chosen -m venv --clear .venv; \
	fi
	@echo 'Installing $(lock_file) into .venv (the first time: about a minute$(if $(CUDA), and several GB))'
	@{ [ -n '$(UV)' ] && '$(UV)' pip install --quiet --python $(python) --require-hashes -r $(lock_file); } \
	    || $(python) -m pip install --quiet --disable-pip-version-check --use-pep517 --require-hashes -r $(lock_file)
	@echo 'Installing this project into .venv (editable)'
	@$(python) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

test: setup
	$(python) -m pytest$(args)

test-slow: setup
	SLOW_TESTS=1 $(python) -m pytest -m slow$(args)

test-slurm: setup
	SLURM_TESTS=1 $(python) -m pytest -m slurm -n 0$(args)

a5: setup
	$(python) experiments/run.py task=a5 model=mamba$(args)

# What is missing at the chosen scale is run, then the figure is drawn of the paper's settings and of the small study.
scale ?= small

figure1 figure2: setup
	$(python) scripts/reproduce.py $@ --scale $(scale)$(args)
	$(python) scripts/figures.py $@
	$(python) scripts/figures.py $@ --results results/small

figures: figure1 figure2

lint: setup
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

format: setup
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

benchmark: setup
	$(python) scripts/benchmark.py$(args)

# Universal, hashed, and without the address of a package index; the CUDA locks keep the versions of the first.
lock:
	@[ -n '$(UV)' ] || [ -x build/uv/bin/uv ] || { echo 'Installing uv into build/uv'; \
	    $(or $(PYTHON),python3) -m venv build/uv && build/uv/bin/python -m pip install --quiet uv; }
	@for extra in '' cuda12 cuda13; do \
	    file=requirements$${extra:+-$$extra}.lock; \
	    echo "Resolving $$file"; \
	    $(or $(UV),build/uv/bin/uv) pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	        --extra dev $${extra:+--extra $$extra --constraint requirements.lock} \
	        --custom-compile-command 'make lock' $(ARGS) --output-file $$file pyproject.toml || exit 1; \
	done

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .jax_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

FORCE:
