"""
``make chaos N=200``: a whole Airflow on PostgreSQL, N times killed; then the ledger against the tasks.

Processes are killed with SIGKILL at random moments, and the emulator's connections cut, while DAG runs go on.
What is dead is started again at once; nothing is cleared by hand. It fails when anything was paid twice,
lost, or given up before its tries were used up. With ``WEBHOOKS=1`` it also fails when a job that reported
itself needs a person. With ``EXECUTOR=celery`` there are two hosts without a shared disk, and object storage.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
import urllib.error
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from tools.database import Postgres
from tools.stack import Stack

from . import report
from .impatient import WEBHOOK_SECRET, impatient
from .killer import CELERY_KINDS, KINDS, Killer

ENOUGH_AT_A_TIME = 12  # unfinished instances
LAST_SECONDS = 900  # for everything to end by itself
ENDED = "('success', 'failed', 'skipped', 'upstream_failed', 'removed')"


def main() -> int:
    options = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    options.add_argument("--webhooks", action="store_true", help="the emulator sends events")
    options.add_argument("--executor", choices=("local", "celery"), default="local")
    given = options.parse_args()
    celery = given.executor == "celery"
    memory = psutil.virtual_memory().total / 2**30
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {psutil.cpu_count()} CPUs, {memory:.0f} GB")
    print(f"{given.kills} kills, seed {given.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    home = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"  logs are in {home}", flush=True)
    with impatient(home, Postgres, webhooks=given.webhooks, celery=celery) as stack:
        stack.await_dag("chaos")
        if given.webhooks:
            stack.emulator.webhook(f"{stack.api}/magichour/webhooks/magichour_default", WEBHOOK_SECRET)
        began = time.monotonic()
        killer = Killer(stack, given.seed, CELERY_KINDS if celery else KINDS)
        runs = Runs(stack)
        while (left := given.kills - killer.kills.total()) > 0:
            stack.keep_up()
            runs.top_up()
            if said := killer.strike() if left > 1 else killer.finish():
                seconds = time.monotonic() - began
                print(f"{seconds:7.1f} s  {said}  ({runs.unfinished()} unfinished)", flush=True)
            time.sleep(0.1)
        print("Enough. Now everything may end by itself.", flush=True)
        deadline = time.monotonic() + LAST_SECONDS
        while runs.unfinished() and time.monotonic() < deadline:
            stack.keep_up()
            time.sleep(0.5)
        print(f"{runs.number} runs, {time.monotonic() - began:.0f} s, {stack.restarts} restarts")
        return 0 if report.tell(stack, killer, webhooks=given.webhooks) else 1


class Runs:
    """Begins a new run whenever there is too little to kill."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.number = 0

    def unfinished(self) -> int:
        """Task instances; those that are not yet mapped count as one."""
        query = f"select count(*) from task_instance where state is null or state not in {ENDED}"  # noqa: S608
        queued = "select count(*) from dag_run where state in ('queued', 'running')"
        return max(int(self._stack.database.rows(query)[0][0]), int(self._stack.database.rows(queued)[0][0]))

    def top_up(self) -> None:
        unmapped = self._stack.database.rows(
            "select 1 from dag_run where state = 'queued' union "
            "select 1 from task_instance where map_index < 0 and state is null"
        )
        if unmapped or self.unfinished() >= ENOUGH_AT_A_TIME:
            return
        run = {"dag_run_id": f"run-{self.number + 1}", "logical_date": None}
        with suppress(OSError):  # the api-server is dead: at the next beat
            try:
                self._stack.ask("POST", "dags/chaos/dagRuns", run)
            except urllib.error.HTTPError as error:
                if error.code != 409:  # made by an earlier beat, whose answer was lost
                    return
            self.number += 1


if __name__ == "__main__":
    sys.exit(main())
