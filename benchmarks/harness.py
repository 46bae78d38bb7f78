"""
How a row is measured: each measurement in a fresh process on one core, the peers interleaved, round by round.

The median of a few rounds says how much, the spread (largest less smallest, of the median) whether to believe
it, and ratios are taken within each round: what the machine does meanwhile happens to all peers alike.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from .table import Table

Key = TypeVar("Key")
Measured = Mapping[str, float] | None

NOISY = 0.3  # of the median
ANSWER = "MEASURED "
SECONDS = 120  # for one measurement


@dataclass(frozen=True)
class Options:
    """
    :param quick: fewer rounds and smaller numbers, to see that everything works.
    :param number: of tasks, in a row with a whole Airflow; None for the row's own.
    """

    quick: bool
    number: int | None = None


@dataclass(frozen=True)
class Sample:
    """One number a round, in the order of the rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Largest less smallest, as a share of the median."""
        return (max(self.values) - min(self.values)) / abs(self.median) if self.median else 0.0

    def over(self, other: Sample) -> Sample:
        """The ratio in each round."""
        return Sample(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def less(self, other: Sample) -> Sample:
        """The difference in each round."""
        return Sample(tuple(mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def show(self, digits: int = 0) -> str:
        """Median and spread; a ``~`` before what was too noisy to quote."""
        return f"{'~' if self.spread > NOISY else ''}{self.median:,.{digits}f} ±{self.spread / 2:.0%}"

    def beside(self, ours: Sample, digits: int = 0) -> str:
        """The same, and how many times ours it is; ``≈`` when the rounds do not agree which is larger."""
        ratio = self.over(ours)
        unsure = self is not ours and min(ratio.values) <= 1 <= max(ratio.values)
        return f"{self.show(digits)} ({'≈' if unsure else '×'}{ratio.median:.2f})"


@dataclass(frozen=True)
class Goal:
    """:param sample: what was measured; None if it could not be."""

    what: str
    limit: float
    sample: Sample | None
    digits: int = 2

    @property
    def reached(self) -> str:
        """Only what every round says is told."""
        if self.sample is None:
            return "not measured"
        below = [value <= self.limit for value in self.sample.values]
        return "reached" if all(below) else "too noisy to tell" if any(below) else "MISSED"


def goal_table(goals: Sequence[Goal]) -> Table:
    return Table(
        "Goals",
        ["what", "at most", "measured", ""],
        [
            (
                goal.what,
                f"{goal.limit:g}",
                goal.sample.show(goal.digits) if goal.sample else "–",
                goal.reached,
            )
            for goal in goals
        ],
    )


def interleaved(cases: Mapping[Key, Callable[[], Measured]], rounds: int) -> dict[Key, dict[str, Sample]]:
    """
    Measure each case once a round, every other round backwards.

    A case that gave no answer in a round has no samples at all, and is not tried again.
    """
    found: dict[Key, list[Mapping[str, float]]] = {key: [] for key in cases}
    for number in range(rounds):
        keys = [key for key in cases if len(found[key]) == number]
        for done, key in enumerate(reversed(keys) if number % 2 else keys, 1):
            print(f"  round {number + 1}/{rounds}, {done}/{len(keys)}: {key}", file=sys.stderr, flush=True)
            if (measured := cases[key]()) is not None:
                found[key].append(measured)
    return {
        key: {what: Sample(tuple(one[what] for one in measured)) for what in measured[0]}
        for key, measured in found.items()
        if len(measured) == rounds
    }


def fresh(
    measure: Callable[..., Measured | Awaitable[Measured]],
    *,
    environment: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
    **arguments: Any,
) -> dict[str, float] | None:
    """
    What ``measure(**arguments)`` returns in a process of its own; None too if it takes for ever.

    :param measure: a function at the top of a module; async, it has an event loop of its own.
    :param seconds: after which it takes for ever.
    """
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.harness",
        measure.__module__,
        measure.__name__,
    ]
    try:
        done = subprocess.run(
            [*command, json.dumps(arguments)],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=clean_environment() | dict(environment or {}),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    for line in done.stdout.splitlines():
        if line.startswith(ANSWER):
            found: dict[str, float] | None = json.loads(line.removeprefix(ANSWER))
            return found
    sys.exit(f"{measure.__module__}.{measure.__name__}({arguments}) failed:\n{done.stderr[-4000:]}")


def clean_environment() -> dict[str, str]:
    """Nothing of the shell's settings, and an Airflow of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    home = Path(tempfile.gettempdir()) / "magichour-bench-airflow"
    return kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONUNBUFFERED": "1",
    }


def use_core(number: int) -> None:
    """The measured process and the server each have a core of their own, where there are two."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    use_core(0)
    module, name, arguments = sys.argv[1:]
    answer = getattr(importlib.import_module(module), name)(**json.loads(arguments))
    if inspect.iscoroutine(answer):
        answer = asyncio.new_event_loop().run_until_complete(answer)
    os.write(1, f"\n{ANSWER}{json.dumps(answer)}\n".encode())  # at once: threads may print meanwhile
    os._exit(0)  # tasks and threads that still wait for something are of no interest
