"""
``make bench``: ours and the peers, measured side by side in one run on this machine.

``make bench ROW=polls`` measures one row (or several: ``ROW="polls schedule"``). ``QUICK=1`` is rough, and
``N=200`` says how many tasks the rows with a whole Airflow have. A run with neither puts what it has found
into ``docs/performance.md``, between the markers of each row.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil

from .harness import Options
from .table import Table

PAGE = Path(__file__).resolve().parent.parent / "docs/performance.md"


def row(name: str) -> Callable[[Options], list[Table]]:
    """The ``run`` of a row's module, which is imported only when the row is measured."""

    def run(options: Options) -> list[Table]:
        found: list[Table] = importlib.import_module(f"benchmarks.{name}").run(options)
        return found

    return run


# In the order in which they are measured and shown.
ROWS = {name: row(name) for name in ("parse", "schedule", "polls", "stall", "memory", "transfers", "herd")}
# Minutes each, and a whole Airflow on PostgreSQL: only when asked for by name.
BIG_ROWS = {name: row(name) for name in ("ten_thousand", "busy_night", "studio", "waking")}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=" ".join(ROWS | BIG_ROWS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--number", type=int, help="of tasks, in " + " ".join(BIG_ROWS))
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS | BIG_ROWS):
        parser.error(f"no such row: {' '.join(unknown)}")
    for name in given.rows or ROWS:
        began = time.monotonic()
        tables = (ROWS | BIG_ROWS)[name](Options(given.quick, given.number))
        found = "\n\n".join(map(str, [*tables, f"*{where_and_when()}*"]))
        print(f"{found}\n({name}: {time.monotonic() - began:.0f} s)\n", flush=True)
        if not given.quick and given.number is None:
            write_down(name, found)
    return 0


def where_and_when() -> str:
    machine = f"{psutil.cpu_count()} CPUs, {psutil.virtual_memory().total / 2**30:.0f} GB"
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}, Python {platform.python_version()}"


def write_down(name: str, found: str) -> None:
    """Put it between the markers of the row; the prose around them is written by hand."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    page, number = re.subn(
        f"{begin}.*?{end}", lambda _: f"{begin}\n{found}\n{end}", PAGE.read_text("utf-8"), flags=re.DOTALL
    )
    if number != 1:
        sys.exit(f"{PAGE.name} has no place for {name}: put {begin} and {end} where its tables belong")
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
