"""
``python -m tools.chaos.outages``: how long may the api-server be away, and how soon is a triggerer replaced?

Default settings of Airflow, but for what is named. Each trial is a run of eight tasks, half of them deferred;
their jobs end in the middle of the outage.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tools.database import Postgres
from tools.stack import CELERY_DAEMONS, DAEMONS, Stack

TRIALS = ((10, 90.0), (5, 6.0), (5, 30.0))  # execution_api_retries; seconds
STATES = "select state, try_number from task_instance where run_id = '{}' order by task_id, map_index"
LONGEST = 900.0  # seconds, for anything


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tools.chaos.outages", description=__doc__)
    options.add_argument("--only", choices=("api-server", "triggerer"))
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    if given.only != "triggerer":
        for retries in (10, 5):
            with _stack({"WORKERS__EXECUTION_API_RETRIES": retries}) as stack:
                for number, seconds in TRIALS:
                    if number == retries:
                        print(f"execution_api_retries={retries}: {_outage(stack, seconds)}", flush=True)
    if given.only != "api-server":
        with _stack({}, daemons=(*DAEMONS[:3], *CELERY_DAEMONS[3:5])) as stack:
            print(f"triggerer killed: {_takeover(stack)}", flush=True)
    return 0


def _stack(settings: dict[str, object], daemons: tuple[str, ...] = DAEMONS) -> Stack:
    home = Path(tempfile.mkdtemp(prefix="outages-"))
    print(f"  logs are in {home}", flush=True)
    return Stack(
        home,
        Postgres,
        dags=Path(__file__).parent / "dags",
        daemons=daemons,
        settings={"CORE__PARALLELISM": 8, **settings},
        emulator={"progression": "manual"},
        extra={"poll_interval": 1},
    )


def _outage(stack: Stack, seconds: float) -> str:
    run_id = _begin(stack)
    stack.stop_daemon("api-server")
    began = time.monotonic()
    time.sleep(seconds / 2)
    stack.emulator.progression = "instant"
    time.sleep(seconds / 2)
    stack.start_daemon("api-server")
    _until(stack, lambda: _answers(stack))
    away = time.monotonic() - began
    _until(stack, lambda: {state for state, _ in _instances(stack, run_id)} <= {"success", "failed"})
    return f"api-server away for {away:.0f} s: state and try of each task {_instances(stack, run_id)}"


def _takeover(stack: Stack) -> str:
    """How long after the death of one of two triggerers all of its tasks belong to the other one."""
    _begin(stack)
    owners = "select triggerer_id, count(*) from trigger group by triggerer_id"
    before = stack.database.rows(owners)
    os.kill(stack.daemons["triggerer@a"].pid, signal.SIGKILL)
    stack.hold("triggerer@a", LONGEST)
    began = time.monotonic()
    _until(stack, lambda: len(stack.database.rows(owners)) == 1 and stack.database.rows(owners) != before)
    taken = time.monotonic() - began
    stack.emulator.progression = "instant"
    return f"waits by triggerer {before}; all with one after {taken:.0f} s"


def _begin(stack: Stack) -> str:
    """A run whose tasks all wait for their jobs."""
    stack.await_dag("chaos")
    stack.emulator.progression = "manual"
    run_id = f"run-{time.monotonic():.0f}"
    stack.ask("POST", "dags/chaos/dagRuns", {"dag_run_id": run_id, "logical_date": None})
    jobs = f"select 1 from task_state_store where run_id = '{run_id}' and value like '%job_id%'"  # noqa: S608
    _until(stack, lambda: len(stack.database.rows(jobs)) == 8)
    _until(stack, lambda: sum(state == "deferred" for state, _ in _instances(stack, run_id)) == 4)
    return run_id


def _instances(stack: Stack, run_id: str) -> list[tuple[str, int]]:
    return [(state, tries) for state, tries in stack.database.rows(STATES.format(run_id))]


def _answers(stack: Stack) -> bool:
    try:
        stack.ask("GET", "monitor/health")
    except OSError:
        return False
    return True


def _until(stack: Stack, happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONGEST
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {LONGEST} s; the logs are in {stack.home}")
        stack.keep_up()
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
