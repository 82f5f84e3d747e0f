# One verb each; every verb that needs the virtual environment makes it first, and only once.
#
# Where pip's own configuration gives a CUDA build of torch (several GB), pass PyTorch's CPU wheel index:
#   make serve TORCH_INDEX=<address of that index>
# Machines with a GPU: `pip install polyad[gpu]` in an environment of your own; there is no lock for it here.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PYTEST ?=
BENCH ?=

TORCH := $(shell sed -n 's/.*"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
LOCKS := requirements/cpu.lock requirements/test.lock
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check

# The stamps carry the sum of what was installed, so that a change installs anew and nothing else does.
sum = $(shell cat $(1) | cksum | cut -d' ' -f1)
LOCKED := $(VENV)/.locked-$(TORCH)-$(call sum,$(LOCKS))
INSTALLED := $(VENV)/.installed-$(call sum,pyproject.toml setup.py kernels/csrc/*)

.DEFAULT_GOAL := help
.PHONY: help serve demo demo-fleet demo-learn test check chart chart-files proto lock clean

help: ## this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/\1 \2/p' Makefile | while read -r verb text; do printf '  make %-11s %s\n' "$$verb" "$$text"; done

serve: $(INSTALLED) ## serve the example base model and adapters on 127.0.0.1:8000
	$(VENV)/bin/polyad serve --example

demo: $(INSTALLED) ## a short scripted tour; ends 0 only if every answer was what it promises
	$(VENV)/bin/python examples/demo.py

demo-fleet: $(INSTALLED) ## three servers, one Redis, a proxy: promotion, kills, a rolling restart, under load
	$(VENV)/bin/python examples/demo_fleet.py --proxy "$$($(VENV)/bin/python -m tests.helm.tools haproxy)"

demo-learn: $(INSTALLED) ## feedback makes an adapter better while it is served; about a quarter of an hour
	$(VENV)/bin/python examples/demo_learn.py

test: $(INSTALLED) ## all tests; PYTEST="-k name" passes options on
	$(VENV)/bin/python -m pytest $(PYTEST)

check: $(INSTALLED) ## ruff, format, mypy strict
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

chart: $(INSTALLED) ## the chart: lint, all combinations, a release's life, alerts, Dockerfile; a part of `make test`
	$(VENV)/bin/python -m pytest tests/helm $(PYTEST)

chart-files: $(INSTALLED) ## generate the chart's values, schema, table, alerts and dashboard from helm/source
	$(VENV)/bin/python helm/source/generate.py

bench-%: $(INSTALLED) ## bench-<name>: runs tests/bench/bench_<name>.py; BENCH="--help" passes options on
	$(VENV)/bin/python -m tests.bench.bench_$(subst -,_,$*) $(BENCH)

proto: $(INSTALLED) ## generate the stubs of proto/
	cd .dev && "$(abspath $(VENV))/bin/python" -m grpc_tools.protoc -I. \
		--python_out=. --pyi_out=. --grpc_python_out=. polyad/proto/*.proto

lock: ## resolve anew and pin: rewrites requirements/*.lock
	TORCH_INDEX="$(TORCH_INDEX)" $(PYTHON) requirements/lock.py

clean: ## remove the virtual environment, caches and build outputs
	rm -rf $(VENV) build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis
	find . -name __pycache__ -prune -exec rm -rf {} +

$(LOCKED):
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else \
		"polyad needs Python 3.11 or 3.12: pass one with PYTHON=")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(PIP) install --no-deps $(addprefix -r ,$(LOCKS))
	@touch $@

$(INSTALLED): $(LOCKED)
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@
