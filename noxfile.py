"""``make test-matrix``: the tests on each Airflow and each Python that we promise to work with."""

from __future__ import annotations

import os
from pathlib import Path

import nox

NEWEST = "3.3"
PYTHONS = {
    "3.0": ("3.11", "3.12"),  # Airflow 3.0 does not run on Python 3.13
    "3.1": ("3.11", "3.12", "3.13"),
    "3.2": ("3.11", "3.12", "3.13"),
    NEWEST: ("3.11", "3.12", "3.13"),
}
# What the version of Airflow, or the pins of its time, can change: the emulator, say, is the same on each. Of
# the rest of tests/airflow, some look into Airflow 3.3's own store, and some need what old pins do not have.
TESTS = (
    "tests/unit",
    "tests/airflow/test_old_versions.py",
    "tests/airflow/test_mapped.py",
    "tests/airflow/test_operator.py",
    "tests/airflow/test_secrets.py",
    "tests/airflow/test_sensor.py",
    "tests/contract",
)

nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.envdir = ".venv/nox"
nox.options.reuse_venv = "yes"
# pyenv's own python3.12 fails when 3.12 is installed and not chosen.
INSTALLED = sorted(Path.home().glob(".pyenv/versions/3.*/bin"))
os.environ["PATH"] = os.pathsep.join([*map(str, INSTALLED), os.environ["PATH"]])


def pins(airflow: str) -> Path:
    """What is installed with it: of its time, since an old Airflow breaks on dependencies that came later."""
    return Path("requirements") / ("dev.txt" if airflow == NEWEST else f"airflow-{airflow}.txt")


@nox.session
@nox.parametrize(
    ("airflow", "python"),
    [
        nox.param(airflow, python, tags=[airflow])
        for airflow, pythons in PYTHONS.items()
        for python in pythons
    ],
)
def tests(session: nox.Session, airflow: str) -> None:
    """In an environment of its own."""
    session.install("-r", str(pins(airflow)))
    session.install("--no-deps", "-e", ".")
    parallel = ("--numprocesses", "logical", "--dist", "loadgroup")
    pages = () if airflow == "3.0" else ("tests/plugin",)
    session.run("python", "-m", "pytest", "-q", *parallel, *(session.posargs or (*TESTS, *pages)))
