"""
Photos by the hundred through a whole Airflow, against the emulator: our operator, deferring, and the vendor's
SDK in a ``PythonOperator``, whose task waits for the video. The same settings, one DAG run after the other.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tools.database import Postgres
from tools.stack import Stack

from .harness import Options
from .table import Table

NUMBER, NUMBER_QUICK = 500, 30
MEDIAN_SECONDS = 20  # of a render; lognormal. At the vendor's 174 s the SDK would take hours
SLOTS = 16  # tasks of a DAG at a time: Airflow's default
LONGEST_SECONDS = 1500  # for one DAG run
ENDED = ("success", "failed")

# When an instance came into which state. A worker's slot is taken while it is running.
NOTE_STATES = """
    create table noted (dag_id text, instance uuid, state text, at timestamptz);
    create function note() returns trigger language plpgsql as $$ begin
        insert into noted values (new.dag_id, new.id, new.state, clock_timestamp());
        return new;
    end $$;
    create trigger note after update on task_instance for each row
        when (old.state is distinct from new.state) execute function note();
    select 1
"""
SECONDS_IN_STATES = """
    select state, sum(extract(epoch from until - at)) from (
        select state, at, lead(at) over (partition by instance order by at) as until
        from noted where dag_id = '{}'
    ) as stays where until is not null group by state
"""


@dataclass
class Night:
    """
    One DAG run.

    :param ended: instances by their last state.
    :param in_state: seconds that all instances together have spent in each state.
    :param calls: of the API, by name.
    """

    seconds: float
    ended: Counter[str]
    in_state: dict[str, float]
    calls: Counter[str]
    videos: int


def run(options: Options) -> list[Table]:
    number = options.number or (NUMBER_QUICK if options.quick else NUMBER)
    os.environ["BENCH_NUMBER"] = str(number)
    with (
        tempfile.TemporaryDirectory(prefix="busy-night-") as folder,
        Stack(
            Path(folder),
            Postgres,
            dags=Path(__file__).parent / "dags",
            settings={"CORE__PARALLELISM": SLOTS, "CORE__MAX_ACTIVE_TASKS_PER_DAG": SLOTS},
            emulator={"progression": f"realistic:{MEDIAN_SECONDS}"},
        ) as stack,
    ):
        stack.database.rows(NOTE_STATES)
        nights = {dag: night(stack, dag, number) for dag in ("operator", "sdk")}
    return [table(nights, number)]


def night(stack: Stack, dag: str, number: int) -> Night:
    stack.await_dag(dag)
    calls = Counter(stack.emulator.state()["calls"])
    print(f"  {dag}: {number} photos", file=sys.stderr, flush=True)
    stack.ask("POST", f"dags/{dag}/dagRuns", {"dag_run_id": "night", "logical_date": None})
    began = time.monotonic()
    state = ""
    while state not in ENDED and time.monotonic() - began < LONGEST_SECONDS:
        time.sleep(1)
        state = stack.database.rows(f"select state from dag_run where dag_id = '{dag}'")[0][0]  # noqa: S608
    seconds = time.monotonic() - began
    if state not in ENDED:
        stack.ask("PATCH", f"dags/{dag}/dagRuns/night", {"state": "failed"})
    ended = stack.database.rows(f"select state from task_instance where dag_id = '{dag}'")  # noqa: S608
    return Night(
        seconds=seconds,
        ended=Counter(str(row[0]) for row in ended),
        in_state={name: float(spent) for name, spent in stack.database.rows(SECONDS_IN_STATES.format(dag))},
        calls=Counter(stack.emulator.state()["calls"]) - calls,
        videos=len(list((stack.videos / dag).rglob("*.mp4"))),
    )


def table(nights: dict[str, Night], number: int) -> Table:
    found = Table(
        f"{number} photos, {SLOTS} tasks at a time, renders of {MEDIAN_SECONDS} s (median)",
        [
            "",
            "videos",
            "wall s",
            "worker slots taken, s",
            "each",
            "polls",
            "each",
            "uploads",
            "submits",
            "downloads",
            "all calls",
        ],
    )
    names = {"operator": "TalkingPhotoOperator, deferring", "sdk": "the SDK in a PythonOperator"}
    for dag, one in nights.items():
        slots = one.in_state.get("running", 0.0)
        found.rows.append(
            [
                names[dag],
                one.videos,
                f"{one.seconds:.0f}",
                f"{slots:.0f}",
                f"{slots / number:.1f}",
                one.calls["get_video"],
                f"{one.calls['get_video'] / number:.1f}",
                one.calls["put"],
                one.calls["create"],
                one.calls["download"],
                one.calls.total(),
            ]
        )
        if one.ended["success"] != number:
            found.notes.append(f"{names[dag]}: NOT ALL SUCCEEDED: {dict(one.ended)}")
    ours, theirs = nights.values()
    found.notes.append(
        f"Ratios: wall ×{ours.seconds / theirs.seconds:.2f}, "
        f"slots ×{ours.in_state.get('running', 0) / theirs.in_state.get('running', 1):.2f}, "
        f"polls ×{ours.calls['get_video'] / max(1, theirs.calls['get_video']):.2f}."
    )
    found.notes.append(
        "A slot is taken while the task instance is running; while it is deferred it takes none. "
        "Uploads are files."
    )
    return found
