"""What ``docs/versions.md`` says of Airflow and Python is what is pinned, tried and asked for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nox", reason="requirements/dev.txt has it")
from noxfile import NEWEST, PYTHONS, TESTS, pins

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "versions.md").read_text("utf-8")
PROJECT: Any = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def row(start: str) -> dict[str, str]:
    """A row of the table, by Airflow version."""
    [cells] = re.findall(rf"^\| {re.escape(start)}\S* \|(.+)\|$", PAGE, re.MULTILINE)
    return dict(zip(PYTHONS, map(str.strip, cells.split("|")), strict=True))


@pytest.mark.parametrize("airflow", PYTHONS)
def test_the_table_says_what_is_pinned_and_tried(airflow: str) -> None:
    first, last = PYTHONS[airflow][0], PYTHONS[airflow][-1]
    assert row("Python")[airflow] in (f"{first}, {last}", f"{first} to {last}")
    file = ROOT / pins(airflow)
    assert row("pinned in `requirements/")[airflow] == f"`{file.name}`"
    [pinned] = re.findall(r"^apache-airflow==(\S+)", file.read_text("utf-8"), re.MULTILINE)
    assert row("tested with")[airflow] == pinned
    assert pinned.startswith(f"{airflow}.")


def test_the_pins_name_no_index() -> None:
    for file in (ROOT / "requirements").glob("*.txt"):
        assert not re.findall(r"://|--\w+", file.read_text("utf-8")), file.name


def test_what_is_asked_for_on_installing_is_tried() -> None:
    [airflow] = [name for name in PROJECT["dependencies"] if name.startswith("apache-airflow>=")]
    assert airflow.removeprefix("apache-airflow>=").startswith(f"{next(iter(PYTHONS))}.")
    named = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name}
    assert named == {python for versions in PYTHONS.values() for python in versions}
    assert PROJECT["requires-python"] == f">={PYTHONS[NEWEST][0]}"


@pytest.mark.parametrize("test", sorted({*TESTS, *re.findall(r"`(tests/\S+)`", PAGE)}))
def test_what_is_tried_is_there(test: str) -> None:
    assert (ROOT / test).exists()
