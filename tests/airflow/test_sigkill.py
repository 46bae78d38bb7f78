"""
One SIGKILL for each kind of process of a whole Airflow: the short form of ``make chaos``, on SQLite.

Death between the lines of the operator itself is in ``test_kills.py``; here it is the machinery around it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("airflow.models.task_state_store", reason="the journal is read from there: Airflow 3.3")

from tools.chaos.impatient import impatient
from tools.chaos.killer import KINDS, Killer
from tools.chaos.report import DELIVERED, instances
from tools.database import Sqlite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tools.stack import Stack

SECONDS = 240


@pytest.fixture
def stack(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    shutil.copy(database, tmp_path / "airflow.db")  # to migrate an empty one takes many seconds
    monkeypatch.setenv("CHAOS_SCHEDULE", "@once")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        with impatient(tmp_path, Sqlite, progression="manual", brief=True) as stack:
            yield stack
        assert stranger.poll() is None, "what else the tests have started is not the stack's to end"
        stranger.kill()


def until(stack: Stack, happened: Callable[[], object]) -> None:
    """Meanwhile what is dead is started again, and nothing else is done."""
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"not within {SECONDS} s; the logs are in {stack.home}"
        stack.keep_up()
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(3 * SECONDS)
@pytest.mark.skipif(sys.platform != "linux", reason="orphans are found by a call of Linux")
def test_whatever_is_killed_while_jobs_render_each_is_paid_for_once_and_delivered(stack: Stack) -> None:
    until(stack, lambda: sum(bool(one.record.jobs) for one in instances(stack)) == 8)

    killer = Killer(stack, seed=1)
    for kind in KINDS:
        # A victim may end by itself between the choice and the blow, or still be about to start again.
        until(stack, partial(killer.kill, kind))
    stack.emulator.progression = "instant"
    until(stack, lambda: all(one.state in ("success", "failed") for one in instances(stack)))

    assert {one.name.partition("/")[2]: (one.paid, one.outcome) for one in instances(stack)} == {
        f"{task}/{index}": (1, DELIVERED) for task in ("in_worker", "in_triggerer") for index in range(4)
    }
