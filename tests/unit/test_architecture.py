"""The four doors, and what it costs to parse a DAG."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import magichour_provider

PACKAGE = Path(magichour_provider.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
WITHOUT_AIRFLOW = {
    "__init__.py",
    "arrival.py",
    "diagnosis.py",
    "exceptions.py",
    "flows.py",
    "inputs.py",
    "schedule.py",
    "wire.py",
    *(name for name in FILES if name.startswith(("client/", "emulator/"))),
}


def imported(name: str) -> set[str]:
    """The absolute names that a file imports, wherever in it."""
    found = set()
    folder = ["magichour_provider", *name.split("/")[:-1]]
    for node in ast.walk(ast.parse(FILES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            origin = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*origin, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def importers(module: str) -> set[str]:
    return {name for name in FILES if any(f"{found}.".startswith(f"{module}.") for found in imported(name))}


def test_client_alone_knows_httpx() -> None:
    assert importers("httpx") == {"client/api.py", "client/asynchronous.py", "client/blocking.py"}


def test_what_speaks_to_magic_hour_does_not_know_airflow() -> None:
    assert importers("airflow") & WITHOUT_AIRFLOW == set()


def test_hooks_alone_reads_connections() -> None:
    compat = "airflow.providers.common.compat"
    assert importers(f"{compat}.connection") | importers(f"{compat}.sdk.Connection") == {"hooks.py"}


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.startswith("emulator/")))
def test_the_emulator_states_the_vendors_rules_for_itself(name: str) -> None:
    ours = {found for found in imported(name) if found.startswith("magichour_provider.")}
    assert {found for found in ours if not f"{found}.".startswith("magichour_provider.emulator.")} == set()


def test_nothing_but_the_emulator_needs_the_emulator() -> None:
    assert {name for name in importers("magichour_provider.emulator") if "emulator/" not in name} == set()


PARSE = """
import json, sys
from airflow.sdk import DAG, BaseOperator
before = set(sys.modules)
import magichour_provider.MODULE
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.mark.parametrize("module", ["operators", "sensors"])
def test_a_dag_that_uses_us_parses_as_fast_as_one_that_does_not(module: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE.replace("MODULE", module)],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    loaded = json.loads(answer.stdout.splitlines()[-1])
    ours = [name for name in loaded if name.startswith("magichour_provider.")]
    assert f"magichour_provider.{module}" in ours
    assert len(ours) <= 5
    theirs = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert theirs <= {"magichour_provider", "airflow"}
