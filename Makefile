# make run  [SOURCE=…]   set up, then run on the embedded clip (or on SOURCE): a live table here, the
#           [ENGINE=…]   pictures with their masks at http://127.0.0.1:5580/; with your own engine: docs/engines.md
# make test              set up what the tests need, and run those that are quick (no GPU): minutes
# make test-slow         the tests that take longer than ten seconds: sanitizers, a booted systemd, Ray, builds
# make dev               a light environment for changes: most unit tests, without torch, OpenVINO and Ray
# make lint              layout, imports and types; installs the whole development environment first (2.8 GB)
# make docs              all pages and the API from docstrings as one site: out/site
# make bench [DATA=…]    the figures of docs/benchmarks.md again; those of the CRF only with DATA, a folder of
#                        images/ and labels/
# make gpu [STAGES=…]    with a CUDA GPU: its tests, and what was measured in out/gpu/gpu.md and gpu.json (tools/device);
#                        DEVICE_DRY=1 make gpu tries the same scripts on a CPU
# make soak              the endurance tests in full: about an hour; their figures are in docs/operating.md

PYTHON ?= python3
SOURCE ?= demo:
ENGINE ?=
DATA ?=
BIN := .venv/bin
.DEFAULT_GOAL := help

.PHONY: help run dev test test-slow lint docs bench gpu soak clean

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

.venv/base: pyproject.toml constraints.txt CMakeLists.txt $(shell find streamseg engines -type f -not -name '*.pyc')
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[web]'
	touch $@

# Tests run on the checkout's Python code, so only what is compiled makes this stale.
.venv/light: pyproject.toml constraints.txt CMakeLists.txt $(shell find streamseg -name '*.cpp' -o -name '*.h')
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[web,test]'
	touch $@

.venv/dev: .venv/base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[dev,forward,kafka,apprise,torch,openvino,pydensecrf,ray,s3,parquet,zarr,web,tensorrt-rtx]'
	touch $@

run: .venv/base
	$(BIN)/streamseg run --source '$(SOURCE)' --realtime --loop --watch --web$(if $(strip $(ENGINE)), --engine '$(ENGINE)')

# The two run every test but those marked soak; a test is in one of them by its markers alone. Tests marked
# alone measure time, or what the whole machine does, and so follow the others one at a time.
# What fails beside others is run once more alone, and listed both times: a machine that does other work
# makes it late; a fault fails twice.
WORKERS ?= 3
PYTEST = $(BIN)/python -m pytest
tests = $(PYTEST) $(2) -m $(1) || { [ $$? = 1 ] && $(PYTEST) --last-failed --last-failed-no-failures none -m $(1); }
test: .venv/dev
	$(call tests,"not slow and not alone and not soak",-n $(WORKERS) --dist worksteal)
	$(call tests,"not slow and alone and not soak")

test-slow: .venv/dev
	$(call tests,"slow and not alone and not soak",-n $(WORKERS) --dist loadscope)
	$(call tests,"slow and alone and not soak")

dev: .venv/light

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/light
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[docs]'
	$(BIN)/python tools/map.py
	$(BIN)/mkdocs build --quiet

bench: .venv/dev
	$(BIN)/streamseg bench pipeline --source demo:
	$(BIN)/streamseg bench pipeline --source demo: --precision fp32
	$(BIN)/streamseg bench pipeline --source demo: --realtime
	$(BIN)/streamseg bench engine --source demo:
	$(BIN)/python -m benchmarks.transport
	$(BIN)/python -m benchmarks.zones
	$(BIN)/python -m benchmarks.labels
	$(BIN)/streamseg bench streams
	$(BIN)/streamseg capacity --source demo: --fps 8
	$(BIN)/python -m benchmarks.hd
	$(BIN)/python -m benchmarks.recorded --precision int8
	$(BIN)/python -m benchmarks.console --precision int8
	$(BIN)/python -m benchmarks.fusion
	$(BIN)/python -m benchmarks.refine --source demo:
ifneq ($(strip $(DATA)),)
	$(BIN)/python -m benchmarks.crf --data '$(DATA)'
endif

gpu: .venv/dev
	PY=$(BIN)/python OUT=out/gpu BUDGET_S=$${BUDGET_S:-3600} bash tools/device/device.sh $(STAGES)

soak: .venv/dev
	$(PYTEST) -m soak -s tests
	STREAMSEG_FUZZ=100000 $(PYTEST) tests/property/test_wire_fuzz.py

clean:
	rm -rf .venv build dist
