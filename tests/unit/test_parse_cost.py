"""What it costs to parse a DAG. The layers are held by import-linter: see ``pyproject.toml``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import magichour_provider

PACKAGE = Path(magichour_provider.__file__).parent

PARSE = """
import json, sys
from airflow.sdk import DAG, BaseOperator
before = set(sys.modules)
import magichour_provider.operators, magichour_provider.sensors
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_a_dag_that_uses_us_parses_as_fast_as_one_that_does_not() -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PARSE],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    loaded = json.loads(answer.stdout.splitlines()[-1])
    ours = [name for name in loaded if name.startswith("magichour_provider.")]
    assert {"magichour_provider.operators", "magichour_provider.sensors"} < set(ours)
    assert len(ours) <= 6
    theirs = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert theirs <= {"magichour_provider", "airflow"}
