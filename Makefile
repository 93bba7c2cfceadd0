# Two commands do everything: `make run` and `make test`. Both set up what they need in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
READY := $(VENV)/.ready
TESTS := $(VENV)/.tests
LAB := $(VENV)/.lab
TRAIN := $(VENV)/.train

.PHONY: run test fuzz hostile lab train lint clean

run: $(READY)            ## the main job, from the built-in data to reports/latest/report.html; ARGS="-p name=value"
	$(BIN)/crs run $(ARGS)

test: $(TESTS)           ## all tests but those of `hostile`, two files at a time
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

fuzz: $(TESTS)           ## random inputs, others each time, for all tests that take any: some ten minutes
	CRS_HYPOTHESIS=fuzz $(BIN)/python -m pytest -n 2 -m hypothesis $(ARGS)

hostile: $(TESTS)        ## kills, full disks, signals, the paper's recipe: an hour and a half; fewer kills: KILLS=20
	$(BIN)/python -m pytest tests/hostile tests/experiments/test_shards.py tests/experiments/test_cluster.py tests/training/test_recipe.py -m hostile -s $(ARGS)

lab: $(LAB)              ## copies of the notebooks in JupyterLab, in reports/lab; those that you changed are kept
	$(BIN)/crs lab

train: $(TRAIN)          ## installs torch, for `crs train`, `crs prefer` and `crs imitate`
	@echo "torch is installed; next: $(BIN)/crs data fetch redial, then $(BIN)/crs train user"

lint: $(TESTS)           ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:                   ## removes the environment, not the runs
	rm -rf $(VENV)

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || \
	  { echo "A C++ compiler is needed to build llama.cpp; install g++ or clang" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing; llama.cpp is compiled once, which takes about five minutes on two cores."

$(READY): pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) .
	@touch $@

$(TESTS): pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) '.[data,lab,scale,test,train,trl]'
	@# Its own requirement, websockets below 11, would stop uvicorn; its agents need none of its requirements.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps dialoguekit
	@touch $@ $(READY)

$(LAB): $(READY)
	$(PIP) '.[lab]'
	@touch $@

# PyTorch's own index has a wheel without CUDA, a tenth of the size: PIP_EXTRA_INDEX_URL=… make train
$(TRAIN): $(READY)
	$(PIP) '.[train]'
	@touch $@
