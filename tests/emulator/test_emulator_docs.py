"""docs/emulator.md: every code block of the page runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from magichour_provider.emulator import Emulator
from magichour_provider.emulator.__main__ import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "emulator.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


# A pytest plugin that saves time: without it, Airflow prepares its API for the tasks of older versions.
LEAN = """
def pytest_runtest_setup():
    from tools import lean_api

    lean_api.use()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_dag_of_the_page_passes_its_test(tmp_path: Path, database: Path) -> None:
    files = [block for block in blocks("python") if re.match(r"# \S+\.py\n", block)]
    assert len(files) == 3
    for block in files:
        path = tmp_path / block.split("\n", 1)[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block, "utf-8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
    # Copy a migrated database, because a migration takes longer than the rest of this test.
    shutil.copy(database, tmp_path / "airflow.db")
    environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{tmp_path}/airflow.db"
    plugin = ["-p", "no:magichour", "-p", "magichour_provider.emulator.pytest_plugin", "-p", "lean"]
    (tmp_path / "lean.py").write_text(LEAN, "utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugin, "--rootdir", str(tmp_path), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout


def test_the_python_of_the_page_runs() -> None:
    names: dict[str, object] = {}
    for block in blocks("python"):
        if not re.match(r"# \S+\.py\n", block):
            exec(compile(block, "docs/emulator.md", "exec"), names)


def commands() -> list[str]:
    lines = "".join(blocks("sh")).splitlines()
    return [line for line in lines if "pip install" not in line and line != lines[1]]


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(render="stub", progression="manual") as emulator:
        yield emulator


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_page_runs(running: Emulator, line: str) -> None:
    # Tests must not use the default port, which is on the page.
    words = shlex.split(line.replace("http://127.0.0.1:8787", running.url))
    if words[0] == "python":
        assert words[1:3] == ["-m", "magichour_provider.emulator"]
        assert main(["--url", running.url, *words[3:]]) == 0
        return
    words.append("--fail-with-body")
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_page_shows_what_the_command_prints() -> None:
    output = blocks("text")[0]
    for text in ("Magic Hour emulator at", "admin page", "AIRFLOW_CONN_MAGICHOUR_DEFAULT="):
        assert text in output


def test_the_page_names_every_setting() -> None:
    from dataclasses import fields

    from magichour_provider.emulator.settings import Settings

    for field in fields(Settings):
        assert f"`{field.name}=" in PAGE, field.name


def test_the_page_names_every_call_and_every_option_of_a_fault() -> None:
    from magichour_provider.emulator.faults import CALLS, OPTIONS

    for name in CALLS:
        assert f"`{name}`" in PAGE, name
    for name in OPTIONS:
        assert re.search(rf"`{name}\b", PAGE), name
