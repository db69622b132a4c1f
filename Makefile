# make lab        open the course in JupyterLab
# make test       every test, on the CPU
# The rest is for those who change flashlab: see CONTRIBUTING.md.

BASE   ?= python3
VENV   := .venv
PYTHON ?= $(VENV)/bin/python

# With PYTHON=… on the command line or in the environment, that Python is used as it is and nothing is installed.
ifeq ($(origin PYTHON),file)
LAB := $(VENV)/.lab-is-ready
DEV := $(VENV)/.dev-is-ready
endif

# In a container one is often root, which Jupyter asks to be told.
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

# Tests run side by side, one a core: threads that wait for each other inside of each would slow all of them many times over.
# What takes longest in one file comes first, and the notebooks, many and short, last: so no core waits for the other at the end.
test: export OMP_NUM_THREADS := 1

.PHONY: lab test test-long gpu-test gpu-sanitize notebooks exercises bench experiments figures compiled clean

lab: $(LAB)
	$(PYTHON) -m jupyterlab --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(AS_ROOT)

test: $(DEV)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check flashlab tests tools
	$(PYTHON) tools/exercises.py --check
	$(PYTHON) -m pytest -n auto --dist loadscope --no-loadscope-reorder --nbval \
	    tests/library tests/course notebooks tests/notebooks tests/test_project.py

# What takes longer: every kernel compiled for every GPU with every feature, and long fuzzing.
test-long: $(DEV)
	$(PYTHON) -m pytest -n auto -m long tests --ignore tests/gpu
	FLASHLAB_FUZZ=5000 $(PYTHON) -m pytest tests/library/test_fuzz.py

# On a machine with a GPU: the kernels as they really run, and every lesson from top to bottom with the same checked outputs.
gpu-test: $(DEV)
	$(PYTHON) -m pytest -n 8 tests/gpu tests/library/test_kernels.py tests/library/test_varlen.py tests/library/test_masks.py \
	    tests/library/test_decode.py tests/library/test_integrations.py tests/library/test_fuzz.py tests/course/test_ladder.py tests/course/test_serving.py
	$(PYTHON) -m pytest --nbval notebooks

# Reads and writes out of bounds, and races: NVIDIA's compute-sanitizer on small calls.
gpu-sanitize: $(DEV)
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 $(PYTHON) -m tests.gpu.sanitize
	compute-sanitizer --tool racecheck --racecheck-report hazard --print-limit 100000 --show-backtrace no \
	    $(PYTHON) -m tests.gpu.sanitize | $(PYTHON) -m tests.gpu.hazards

notebooks: $(DEV)
	$(PYTHON) tools/notebooks.py build

exercises: $(DEV)
	$(PYTHON) tools/exercises.py

bench: $(DEV)
	$(PYTHON) -m flashlab bench

# What lessons 12 and 14 measure, as data; and on a Hopper GPU lesson 15.
experiments: $(DEV)
	$(PYTHON) -m flashlab.course.experiments
	$(PYTHON) -m flashlab.course.by_hand
	$(PYTHON) -m flashlab.course.counters

figures: $(DEV)
	$(PYTHON) tools/readme_figure.py

# What the compiler makes of every kernel for every GPU; needs none of them.
compiled: $(DEV)
	$(PYTHON) tools/compile_table.py

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(BASE) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "flashlab needs Python 3.11 or newer: make $(MAKECMDGOALS) BASE=python3.13"; exit 1; }
	$(BASE) -m venv $(VENV)

$(VENV)/.lab-is-ready: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	touch $@

$(VENV)/.dev-is-ready: $(VENV)/bin/python pyproject.toml constraints.txt
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.lab-is-ready
