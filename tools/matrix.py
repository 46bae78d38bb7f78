"""
``make test-matrix``: the tests on each Airflow and each Python that we promise to work with.

Each pair has an environment of its own in ``.venv``, made from ``requirements/airflow-*.txt``; the newest
Airflow's pins are ``requirements/dev.txt``. A Python that is not on this machine is skipped by name.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
BIN = HERE / ".venv" / "bin"
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
    "tests/airflow/test_any_version.py",
    "tests/airflow/test_mapped.py",
    "tests/airflow/test_operator.py",
    "tests/airflow/test_secrets.py",
    "tests/airflow/test_sensor.py",
    "tests/contract/test_hook.py",
    "tests/contract/test_connection_test.py",
    "tests/contract/test_client_submit.py",
    "tests/contract/test_client_free_calls.py",
    "tests/contract/test_client_files.py",
)
SHORT = (
    "tests/unit",
    "tests/airflow/test_any_version.py",
    "tests/contract/test_hook.py",
    "tests/contract/test_client_submit.py",
)


def main() -> int:
    options = _options()
    pairs = [(airflow, python) for airflow, versions in PYTHONS.items() for python in versions]
    if options.oldest:
        pairs = [next(pair for pair in pairs if _interpreter(pair[1]))]
    outcomes = {
        pair: _try(*pair, SHORT if options.oldest else TESTS)
        for pair in pairs
        if options.airflow in (None, pair[0]) and options.python in (None, pair[1])
    }
    print()
    for (airflow, python), outcome in outcomes.items():
        print(f"Airflow {airflow}  Python {python}  {outcome}")
    return int("passed" not in outcomes.values() or "FAILED" in outcomes.values())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-matrix")
    parser.add_argument("--airflow", choices=PYTHONS, help="only this one")
    parser.add_argument("--python", help="only this one: 3.12")
    parser.add_argument(
        "--oldest", action="store_true", help="the oldest pair, and what tells most in two minutes"
    )
    return parser.parse_args()


def _try(airflow: str, python: str, tests: tuple[str, ...]) -> str:
    interpreter = _interpreter(python)
    if interpreter is None:
        return f"skipped: there is no Python {python} on this machine"
    print(f"\nAirflow {airflow} on Python {python}", flush=True)
    command = [_environment(airflow, python, interpreter) / "bin" / "python", "-m", "pytest", "-q", *tests]
    return "FAILED" if subprocess.run(command, cwd=HERE).returncode else "passed"


def _interpreter(version: str) -> str | None:
    """One that works: pyenv puts names on the path for versions, too, that are not chosen."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = (shutil.which(name, path=folder) for folder in os.get_exec_path())
    by_pyenv = sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"))
    found = (str(path) for path in [sys.executable, *on_path, *by_pyenv] if path)
    return next((path for path in found if _says(path) == version), None)


def _says(interpreter: str) -> str:
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([interpreter, "-c", ask], capture_output=True, text=True).stdout.strip()


def pins(airflow: str) -> Path:
    return HERE / "requirements" / ("dev.txt" if airflow == NEWEST else f"airflow-{airflow}.txt")


def _environment(airflow: str, python: str, interpreter: str) -> Path:
    """Made once, and brought to the pins each time, which takes a moment when nothing has changed."""
    folder = HERE / ".venv" / f"airflow-{airflow}-python{python}"
    uv = [BIN / "uv", "--quiet", "--no-python-downloads"]
    if not folder.exists():
        subprocess.run([*uv, "venv", "--python", interpreter, folder], check=True)
    into = os.environ | {"VIRTUAL_ENV": str(folder)}
    subprocess.run([*uv, "pip", "install", "-r", pins(airflow)], env=into, check=True)
    subprocess.run([*uv, "pip", "install", "--no-deps", "-e", HERE], env=into, check=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
