# One command each: demo, test, check. Python 3.11 or newer, git and make are all that must be there.
PYTHON  ?= python3
# More processes than cores: a test of Airflow waits for half of its time.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(max(2, os.cpu_count() * 3 // 2))")
VENV    := .venv
BIN     := $(VENV)/bin
export PYTHONUNBUFFERED := 1
unexport PYTHONDONTWRITEBYTECODE # to start Airflow is to import it: compiled once, it takes half as long

# What each command takes; a word that is spelled wrongly is refused rather than ignored.
TAKES_demo          := PHOTO AUDIO TEXT DAG STAY V REAL
TAKES_test          := ARGS WORKERS
TAKES_test-matrix   := ARGS
TAKES_release-check := ARGS REPOSITORY
TAKES_chaos         := N SEED WEBHOOKS EXECUTOR
TAKES_bench         := ROW QUICK N
GOALS := $(or $(MAKECMDGOALS),help)
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
WRONG := $(filter-out PYTHON $(foreach goal,$(GOALS),$(TAKES_$(goal))),$(GIVEN))
ifneq ($(WRONG),)
$(error make $(GOALS) does not know $(WRONG). It takes $(or $(strip $(foreach goal,$(GOALS),$(TAKES_$(goal)))),no variables))
endif

# As it was written, also if a dollar or an apostrophe is in it.
override export PHOTO := $(value PHOTO)
override export AUDIO := $(value AUDIO)
override export TEXT := $(value TEXT)
override export DAG := $(value DAG)

.PHONY: help demo test test-matrix test-oldest chaos bench check format docs docs-serve hooks lock lock-old release-check clean

help:
	@echo "make demo     a photo and a voice become a video, in real Airflow, without a key"
	@echo "              PHOTO=me.jpg AUDIO=hello.mp3 take your own; TEXT='Good morning' is spoken instead;"
	@echo "              DAG=speaking_portrait runs another file of example_dags/; V=1 shows Airflow's log;"
	@echo "              STAY=1 leaves a whole Airflow and the emulator up to look at;"
	@echo "              REAL=1 uses the real API with MAGICHOUR_API_KEY, and spends credits"
	@echo "make test     the tests           make check    ruff, mypy, layers, links in the docs"
	@echo "              ARGS='tests/unit -k journal' runs a part; WORKERS=0 runs it in one process"
	@echo "make test-matrix   on Airflow 3.0 to 3.3, and each Python that is here; test-oldest: 3.0, briefly"
	@echo "make chaos    N=200 kills in a whole Airflow on PostgreSQL; is anything paid twice, or lost?"
	@echo "              WEBHOOKS=1 the vendor's events arrive, and nobody is needed; EXECUTOR=celery two hosts"
	@echo "make bench    ours and the peers, measured side by side, into docs/performance.md"
	@echo "              ROW=polls measures one row; QUICK=1 is rough, and writes nothing;"
	@echo "              ROW=ten_thousand, ROW=busy_night: a whole Airflow; N=200 tasks, writes nothing"
	@echo "make format   tidy the code       make hooks    have git check each commit"
	@echo "make docs     the docs as a site, in site/; docs-serve: on this machine, while you write"
	@echo "make lock     renew requirements/ make clean    remove what make has made"
	@echo "make release-check   is the wheel fit to be published? REPOSITORY=https://… is its public address"

demo: $(VENV)/demo-ready
	@$(BIN)/python -m tools.demo \
		$${PHOTO:+--photo "$$PHOTO"} $${AUDIO:+--audio "$$AUDIO"} $${TEXT:+--text "$$TEXT"} $${DAG:+--dag "$$DAG"} \
		$(if $(filter-out 0,$(STAY)),--stay) $(if $(filter-out 0,$(REAL)),--real) $(if $(filter-out 0,$(V)),-v)

test: $(VENV)/dev-ready
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadgroup --durations 15 --durations-min 2 $(ARGS)

test-matrix: $(VENV)/dev-ready
	$(BIN)/nox $(ARGS)

test-oldest: $(VENV)/dev-ready
	$(BIN)/nox --tags 3.0 --python 3.11 --error-on-missing-interpreters -- tests/airflow/test_old_versions.py \
		tests/contract/test_hook.py tests/contract/test_client_submit.py tests/unit/test_arguments.py \
		tests/unit/test_task_errors.py tests/unit/test_storage.py tests/unit/test_parse_cost.py \
		tests/unit/test_provider_info.py tests/unit/test_journal.py

chaos: $(VENV)/chaos/ready
	@$(VENV)/chaos/bin/python -m tools.chaos $(if $(N),--kills '$(N)') $(if $(SEED),--seed '$(SEED)') \
		$(if $(filter-out 0,$(WEBHOOKS)),--webhooks) $(if $(EXECUTOR),--executor '$(EXECUTOR)')

bench: $(VENV)/bench/ready
	@$(VENV)/bench/bin/python -m benchmarks $(if $(filter-out 0,$(QUICK)),--quick) \
		$(if $(N),--number '$(N)') $(ROW)

check: $(VENV)/dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: $(VENV)/dev-ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/dev-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

hooks: $(VENV)/dev-ready
	$(BIN)/pre-commit install

release-check: $(VENV)/dev-ready
	sh tools/release_check.sh

# The pins carry no address: pip takes them from whatever index it is set up for.
# What the tests need is the narrowest, so it is pinned first.
lock: $(VENV)/bin/python
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
		--no-annotate --upgrade --extra emulator --group test --group check \
		pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
		--no-annotate --constraint requirements/dev.txt --extra emulator pyproject.toml -o requirements/demo.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
		--no-annotate --constraint requirements/dev.txt --extra emulator --group chaos \
		pyproject.toml -o requirements/chaos.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header \
		--no-annotate --constraint requirements/dev.txt --constraint requirements/chaos.txt --extra emulator \
		--group bench pyproject.toml -o requirements/bench.txt

# Airflows of before break on dependencies of after, so their pins are of their time; but for what we need newer.
lock-old: $(VENV)/dev-ready
	$(call as_of,3.0,2025-09-10,--exclude-newer-package apache-airflow-providers-common-compat=2026-03-20)
	$(call as_of,3.1,2026-03-20)
	$(call as_of,3.2,2026-06-15)

define as_of
	@(echo "# Airflow $(1) as of $(2), by make lock-old"; echo "apache-airflow==$(1).*" | $(BIN)/uv pip compile -q \
		--universal --python-version 3.11 --no-python-downloads --no-emit-index-url --no-emit-find-links \
		--no-header --no-annotate --exclude-newer $(2) $(3) --extra emulator --group matrix pyproject.toml - \
		) > requirements/airflow-$(1).txt
endef

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is %s. Try: make PYTHON=python3.12 …" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo-ready: requirements/demo.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the package and Airflow into $(VENV) (once; a minute or two)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements/demo.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/dev-ready: requirements/dev.txt $(VENV)/demo-ready
	@echo "Installing the tools for tests and checks"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements/dev.txt
	@touch $@

$(VENV)/chaos/ready: requirements/chaos.txt | $(VENV)/bin/python
	@echo "Installing Airflow with its PostgreSQL drivers into $(VENV)/chaos (once)"
	@$(PYTHON) -m venv $(VENV)/chaos
	@$(VENV)/chaos/bin/python -m pip install -q --disable-pip-version-check -r requirements/chaos.txt
	@$(VENV)/chaos/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/bench/ready: requirements/bench.txt | $(VENV)/bin/python
	@echo "Installing Airflow with the peers into $(VENV)/bench (once)"
	@$(PYTHON) -m venv $(VENV)/bench
	@$(VENV)/bench/bin/python -m pip install -q --disable-pip-version-check -r requirements/bench.txt
	@$(VENV)/bench/bin/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) dist site demo_output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
