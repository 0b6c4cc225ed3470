# make demo, make test, make lint and make notebooks set up .venv on first use; they need python3 (3.11 or newer, with venv) and make.
PYTHON ?= python3
VENV := .venv/bin/python

.PHONY: help demo test slow nightly kernels-check fuzz kill-test lint format docs site excerpts notebooks blanks bench gpu-check release clean

help:
	@echo "make demo       train on generated pictures, show captions and scores, leave a run folder under runs/"
	@echo "make test       the tests, on up to four cores; on Linux with a CUDA compiler, so that kernels are checked without a GPU; XPCAP_REQUIRE_GPU=1 makes a GPU that is not usable an error"
	@echo "make slow       the slow tests: processes, races, faults and kills, real captions, commands and notebooks of the docs"
	@echo "make nightly    tests that take longer still, such as the sanitizers of all kernels; bash .ci/nightly runs them, fuzz and kill-test"
	@echo "make kernels-check  after a change of a kernel: NVRTC for every architecture, and the sanitizers; writes down what was checked"
	@echo "make fuzz       2,000 fresh examples of each property, and of each kind of damaged file; EXAMPLES may be given"
	@echo "make kill-test  kill training 100 times, let every step of every write fail, and go on; KILLS and SEED may be given"
	@echo "make lint       ruff, import-linter and mypy"
	@echo "make format     let ruff format the code"
	@echo "make docs       make excerpts and make site, and open the site in a browser"
	@echo "make site       build the site of docs/ and of the docstrings into site/html; a warning is an error"
	@echo "make excerpts   bring the docs' tables of options and measured figures up to date, and draw their figures"
	@echo "make notebooks  run the notebooks of docs/ and write their outputs into them"
	@echo "make blanks     write handout/: the course's files with blanks for students, a README, and the notebooks without answers; ARGS=\"--blank 'lstm_*'\""
	@echo "make bench      time training and sampling: ARGS='--config coco --peer torch', or ARGS=--help"
	@echo "make gpu-check  run the commands of docs/develop/gpu-check.md on a GPU, and write a page about it (PAGE=gpu-check.md); installs nothing, uses the packages of $(PYTHON)"
	@echo "make release    build sdist and wheel into dist/, check them in a clean environment, and list the steps of a release; uploads nothing"
	@echo "make clean      remove .venv, caches and site/ (runs/ stays)"

# .venv is made anew when pyproject.toml changes, and only counts once everything is in it.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "xpcap needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(VENV) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# CuPy for the driver's CUDA, of which nvidia-smi prints "CUDA Version: 12.4" or "CUDA UMD Version: 13.3", and for every GPU: 13 takes none below 7.5. Without a GPU, CuPy's names and NVRTC.
DRIVER_CUDA = $(shell nvidia-smi 2>/dev/null | sed -n 's/.*CUDA \(UMD \)*Version: *\([0-9]*\).*/\2/p')
OLD_GPUS = $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | awk '$$1 < 7.5')
CUPY = $(if $(DRIVER_CUDA),$(if $(filter 12,$(DRIVER_CUDA))$(OLD_GPUS),cuda12,cuda13),kernels)

# What the tests of the CuPy path, of photographs, of several processes, of a web service and of an older threadpoolctl need beside that. Two wheels of CuPy clash, so an earlier one goes. No CuPy exists for other systems; there the tests skip, with the reason.
.venv/kernels: .venv/ready
	@if [ "$$($(VENV) -c 'import platform; print(platform.system(), platform.libc_ver()[0])')" = "Linux glibc" ]; then \
		echo "$(VENV) -m pip install --quiet --disable-pip-version-check --editable '.[$(CUPY),images,heic,mpi,export,serve]'"; \
		$(VENV) -m pip uninstall -qq --yes --disable-pip-version-check cupy-cuda12x cupy-cuda13x; \
		$(VENV) -m pip install --quiet --disable-pip-version-check --editable '.[$(CUPY),images,heic,mpi,export,serve]'; \
		$(VENV) -m pip install --quiet --disable-pip-version-check --no-deps --target .venv/threadpoolctl-3.7 threadpoolctl==3.7.0; \
	else echo "no CuPy for this system: tests of the emulated device, of photographs and of several processes will skip"; fi
	@touch $@

# The list of fonts that matplotlib keeps stays with the set-up.
test slow nightly fuzz kill-test excerpts notebooks bench: export MPLCONFIGDIR := $(CURDIR)/.venv/matplotlib

demo: .venv/ready
	$(VENV) cli.py train

# One process a core; whichever is done takes half of what another has left.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
# Compiled bytecode is kept: tests start hundreds of processes, and each would spend half a second on compiling.
unexport PYTHONDONTWRITEBYTECODE

test: .venv/kernels
	$(VENV) -m pytest $(PARALLEL)

slow: .venv/kernels
	$(VENV) -m pytest $(PARALLEL) -m 'slow and not nightly'

nightly: .venv/kernels
	$(VENV) -m pytest $(PARALLEL) -m nightly

kernels-check: .venv/kernels
	$(VENV) tools/check_kernels.py $(PARALLEL)

EXAMPLES ?= 2000
KILLS ?= 100
SEED ?= 0

fuzz: .venv/ready
	XPCAP_EXAMPLES=$(EXAMPLES) $(VENV) -m pytest $(PARALLEL) -m '' tests/layers/test_properties.py tests/package/test_fuzz.py

kill-test: .venv/ready
	$(VENV) tools/faults.py
	$(VENV) tools/kill.py --kills $(KILLS) --seed $(SEED)

lint: .venv/ready
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	$(dir $(VENV))lint-imports --no-logo --no-cache
	$(VENV) -m mypy

format: .venv/ready
	$(VENV) -m ruff check --fix .
	$(VENV) -m ruff format .

excerpts: .venv/ready
	$(VENV) tools/excerpts.py
	$(VENV) docs/figures.py

.venv/docs: .venv/ready
	$(VENV) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

site: .venv/docs
	$(VENV) -m sphinx --quiet --fail-on-warning -d .venv/doctrees docs site/html

docs: excerpts site
	$(VENV) -m webbrowser "file://$(CURDIR)/site/html/index.html"

notebooks: .venv/ready
	$(VENV) tools/notebooks.py

blanks: .venv/ready
	$(VENV) -m xpcap.cs231n.handout $(ARGS) handout docs/tutorials/rnn_captioning.ipynb docs/tutorials/lstm_captioning.ipynb

bench: .venv/ready
	$(VENV) -m benchmarks $(ARGS)

gpu-check:
	$(PYTHON) tools/gpu_check.py $(PAGE)

.venv/release: .venv/ready
	$(VENV) -m pip install --quiet --disable-pip-version-check --editable '.[release]'
	@touch $@

# A dry run: what dist/ holds at the end is what was installed and used in the clean environment.
release: .venv/release
	rm -rf dist
	$(VENV) tools/clean_room.py dist
	$(VENV) -m twine check --strict dist/*
	@test -z "$$(git status --porcelain)" || echo "note: the checkout has changes that are not committed, and dist/ has them too"
	@version=$$($(VENV) -c 'import xpcap; print(xpcap.__version__)'); \
	echo "dist/ holds xpcap $$version; nothing was uploaded. To release it:"; \
	echo "1. xpcap/__init__.py has the version, the only place; the news of CHANGELOG.md stand under it; commit, and make release again"; \
	echo "2. git tag v$$version, and push the tag once CI has passed"; \
	echo "3. $(VENV) -m twine upload dist/*"

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis
