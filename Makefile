# make demo     the whole path in a few minutes: install, draw scenes, train, evaluate, detect
# make test     all that CI runs: make check, the test suite, make kernels
# make check    the quick part of it: ruff, its formatter, pyright
# make kernels  the tests that compare numbers, with the kernels of a plainer processor
# make lock     locks/*.txt anew: the versions and hashes that `make test` and `make demo` install
# make sbom     build/sbom.json: what an installed hsvdet consists of (CycloneDX)
# make clean    remove what these made, except runs/

VENV := .venv
BIN := $(VENV)/bin
.DELETE_ON_ERROR:
.PHONY: demo test check lint format types kernels lock sbom clean

demo: $(VENV)/.video
	$(BIN)/hsvdet demo

test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile
	@$(MAKE) --no-print-directory kernels

# Each is also a pre-commit hook (.pre-commit-config.yaml).
check: lint format types

lint: $(VENV)/.test
	$(BIN)/ruff check

format: $(VENV)/.test
	$(BIN)/ruff format --check

# By itself it asks the package index each time whether there is a newer one.
types: $(VENV)/.test
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

# PyTorch without vector units, its convolutions without AVX-512: a test that holds on one machine alone fails here.
# OpenVINO cannot compile under the second, so no file that uses it may be among these.
NUMBERS := $(addprefix tests/,test_certificate.py test_ties.py test_fold.py test_inference.py test_sparse_global.py \
  test_deformable.py test_matching.py parity)

kernels: $(VENV)/.test
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -n 2 --dist loadfile $(NUMBERS)

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .ruff_cache

# The first Python from 3.11 on that can make an environment.
$(BIN)/python:
	@for python in python3.13 python3.12 python3.11 python3; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then echo "$$python -m venv $(VENV)"; rm -rf $(VENV); exec $$python -m venv $(VENV); fi; done; \
	  echo "hsvdet needs Python 3.11 or newer with venv. On Debian or Ubuntu: apt install python3-venv" >&2; exit 2

# A stamp for each set of extras: installed again when its lock changes. What comes from the package index has the
# hashes of the lock, or is refused; setuptools, which builds hsvdet, is one of them. uv is faster where it is there.
$(VENV)/.%: locks/%.txt pyproject.toml | $(BIN)/python
	@if command -v uv >/dev/null; then pip="uv pip install --python $(BIN)/python"; \
	else pip="$(BIN)/python -m pip install --disable-pip-version-check"; fi; \
	$$pip --require-hashes -r $< && $$pip --no-deps --no-build-isolation -e .
	@touch $@

# Needs uv. For every platform and every Python that is supported; the newest versions, unless LOCK says otherwise.
LOCK := --upgrade
lock:
	for extra in test video; do uv pip compile -q $(LOCK) --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" --extra $$extra \
	  pyproject.toml locks/build.in -o locks/$$extra.txt || exit; done

sbom: $(VENV)/.video
	@mkdir -p build
	$(BIN)/python benchmarks/sbom.py > build/sbom.json
