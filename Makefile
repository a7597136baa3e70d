# `make demo`, `make test` and `make lint` need nothing but Python 3.11 or newer and a network on the first call:
# each creates .venv and installs what it needs. Stamp files make later calls quick.

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
RUNS := runs
SHOWN := landscapes_panorama landscapes landscapes_class demo_vqgan demo_class demo_report

define NEXT
$(PY) -m taming_jax.page --workdir=landscapes
    paint a map in your browser, and see it drawn
$(PY) sample.py --config=configs/landscapes.py:panorama --config.sample.seed=1
    another panorama by the same map
$(PY) sample.py --config=configs/demo_class.py --config.sample.classes=star --config.sample.n=16
    more of the model that was trained just now
README.md, "Your own photographs"
    train your own
endef
export NEXT

.PHONY: help demo test lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   draw landscapes by the model that is here already, then train both stages on the"
	@echo "            built-in scenes and sample; a page with all of it (about 9 minutes on 2 cores)"
	@echo "make test   run every test; TESTS='-m \"not slow\"' leaves out those of many seconds"
	@echo "make lint   ruff, the format, and mypy"
	@echo "make clean  remove the virtual environment and caches (runs/ stays)"

demo: $(VENV)/.base
	$(PY) sample.py --config=configs/landscapes.py:panorama --config.sample.out=$(RUNS)/landscapes_panorama
	$(PY) sample.py --config=configs/landscapes.py --config.sample.out=$(RUNS)/landscapes
	$(PY) sample.py --config=configs/landscapes.py:class --config.sample.out=$(RUNS)/landscapes_class
	$(PY) train_vqgan.py --config=configs/demo_vqgan.py --workdir=$(RUNS)/demo_vqgan
	$(PY) train_transformer.py --config=configs/demo_class.py --workdir=$(RUNS)/demo_class
	$(PY) sample.py --config=configs/demo_class.py --workdir=$(RUNS)/demo_class
	$(PY) -m taming_jax.evaluate --workdir=$(RUNS)/demo_class --out=$(RUNS)/demo_report
	$(PY) -m taming_jax.evaluate samples $(RUNS)/demo_class --n 2000 --draw_batch 100 --out $(RUNS)/demo_report/samples.json
	$(PY) -m taming_jax.html_report $(addprefix $(RUNS)/,$(SHOWN)) --out $(RUNS)/report.html --title "The demo of taming_jax" --next "$$NEXT"

test: $(VENV)/.dev
	$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile $(TESTS)

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:
	rm -rf .venv .venv-oldest build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# A candidate counts only if it runs: pyenv, for one, leaves python3.12 on the path for versions that are not active.
# Set PYTHON=... to choose another interpreter.
$(PY):
	@for candidate in $(PYTHON) python3.12 python3.11 python3.13 python3.14 python3 python; do \
	    if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        echo "creating $(VENV) with $$candidate ($$($$candidate --version))"; \
	        exec $$candidate -m venv $(VENV); \
	    fi; \
	done; \
	echo "No working Python 3.11 or newer (with venv) was found among: $(PYTHON) python3.11 ... python3.14, python3, python." >&2; \
	echo "Install one (Debian, Ubuntu: sudo apt install python3.12-venv) or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1

# The demo needs no TensorFlow, so the base installs without it.
$(VENV)/.base: pyproject.toml | $(PY)
	@echo "installing taming_jax and what it needs into $(VENV)"
	@$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(PY)
	@echo "installing taming_jax with TensorFlow and the tools for tests into $(VENV) (about 1 GB)"
	@$(PIP) install --quiet --editable '.[dev]'
	@$(PIP) install --quiet --no-deps --target $(VENV)/tpu 'libtpu>=0.0.42' \
	    || echo "without the TPU's compiler: its tests are skipped"
	@touch $@ $(VENV)/.base
