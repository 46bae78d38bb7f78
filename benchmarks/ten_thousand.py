"""
Ten thousand deferred tasks in one real triggerer: ours, Airflow's ``HttpSensorTrigger``, and one that sleeps.

What the sleeping trigger costs is Airflow's own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import cast
from unittest.mock import patch

from magichour_provider.api.polling import PollSchedule, RenderTimes
from tools.database import Postgres
from tools.stack import Stack

from .harness import Options
from .table import Table
from .triggerer import DAG, SETTINGS, Kind, Outcome, Trial, command, say

NUMBER, NUMBER_QUICK = 10_000, 1000
INTERVAL = 20.0  # seconds between two polls of the peer: as ours at such a job


def our_next_poll(age: float, usual: float) -> float:
    """As long as nothing is known of render times, and then."""
    renders = RenderTimes()
    renders.record_end("video", None, None, after=usual, before=usual)
    with patch("random.random", return_value=1.0):
        return max(schedule.next_poll(age) for schedule in (PollSchedule(), PollSchedule(renders=renders)))


KINDS = (
    Kind("sleeps", "benchmarks.sleeping.SleepTrigger", lambda job: {"until": job.ends_at}, None),
    Kind(
        "JobTrigger",
        "magichour_provider.triggers.JobTrigger",
        lambda job: {
            "job_id": job.id,
            "magichour_conn_id": "magichour_default",
            "deadline": job.ends_at + 3600,
            "submitted_at": job.submitted_at,
            "poll_interval": None,
        },
        our_next_poll,
    ),
    Kind(
        "HttpSensorTrigger",
        "airflow.providers.http.triggers.http.HttpSensorTrigger",
        lambda job: {
            "endpoint": f"ended/{job.id}",
            "http_conn_id": "bench_http",
            "poke_interval": INTERVAL,
        },
        lambda _age, _usual: INTERVAL,
    ),
)


def run(options: Options) -> list[Table]:
    number = options.number or (NUMBER_QUICK if options.quick else NUMBER)
    allow_files(number + 1000)  # the triggerer keeps the log of each trigger open
    with tempfile.TemporaryDirectory(prefix="ten-thousand-") as folder, standin() as port:
        os.environ |= {
            "AIRFLOW_CONN_MAGICHOUR_DEFAULT": json.dumps(
                {"conn_type": "magichour", "host": f"http://127.0.0.1:{port}", "password": "mhk_test_key"}
            ),
            "AIRFLOW_CONN_BENCH_HTTP": f"http://127.0.0.1:{port}",
        }
        settings = {**SETTINGS, "TRIGGERER__CAPACITY": number}
        dags = Path(__file__).parent / "dags"
        with Stack(Path(folder), Postgres, dags=dags, daemons=(), settings=settings, emulator=None) as stack:
            say(f"making DAG runs of {number} tasks")
            command("airflow", "dags", "reserialize")
            for kind in KINDS:
                command("benchmarks.deferred", "create", DAG, kind.name, str(number))
            outcomes = {kind: Trial(stack, kind, number, port).run() for kind in KINDS}
    return [costs(outcomes), lags(outcomes)]


def allow_files(number: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < number:
        sys.exit(f"the triggerer needs {number} open files, and this machine allows {most}: ulimit -Hn")
    resource.setrlimit(resource.RLIMIT_NOFILE, (number if most == resource.RLIM_INFINITY else most, most))


@contextmanager
def standin() -> Iterator[int]:
    """Its port."""
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.timed"], stdout=subprocess.PIPE, text=True)
    try:
        yield int(cast(str, server.stdout and server.stdout.readline()))
    finally:
        server.kill()
        server.wait()


def late(kind: Kind, one: Outcome) -> list[float]:
    """Seconds by which the poll that found a job ended was later than the schedule ever allows."""
    assert kind.next_poll
    # What is learned is the median of some dozens of ends: it is never above the third quartile of all.
    usual = quantiles([job.ends_at - job.submitted_at for job in one.jobs], n=4)[2]
    found = []
    for job in one.jobs:
        noted = one.polls.get(job.id)
        if noted and noted["found"] and noted["previous"]:
            allowed = kind.next_poll(noted["previous"] - job.submitted_at, usual)
            found.append(noted["found"] - noted["previous"] - allowed)
    return found


def costs(outcomes: dict[Kind, Outcome]) -> Table:
    empty = next(iter(outcomes.values()))
    number = len(empty.jobs)
    table = Table(
        f"{number:,} deferred tasks in one triggerer",
        [
            "trigger",
            "resumed",
            "one event",
            "runner, KB each",
            "supervisor, KB each",
            "runner, CPU s",
            "supervisor, CPU s",
            "polls",
            "runner, ms a poll",
            "longest stall, ms: loading",
            "waiting",
            "over 200 ms",
        ],
    )
    for kind, one in outcomes.items():
        polls = sum(noted["polls"] for noted in one.polls.values())
        cpu_of_polls = one.cpu["runner"] - empty.cpu["runner"]
        table.rows.append(
            [
                kind.name,
                len(one.resumed),
                one.fired[1],
                *(f"{one.kilobytes[part]:.1f}" for part in ("runner", "supervisor")),
                *(f"{one.cpu[part]:.0f}" for part in ("runner", "supervisor")),
                polls or "–",
                f"{1000 * cpu_of_polls / polls:.2f}" if polls else "–",
                *(f"{1000 * max(found, default=0):.0f}" for found in (one.stalls_loading, one.stalls)),
                sum(stall > 0.2 for stall in one.stalls),
            ]
        )
        if several := {times: count for times, count in one.fired.items() if times != 1}:
            table.notes.append(f"{kind.name}: {several} (events: triggers)")
        taken = f"{one.loading_seconds:.0f} s from the deferral until all were loaded"
        table.notes.append(
            f"{kind.name}: {taken}"
            if one.all_waited
            else f"{kind.name}: some were still being loaded when the first jobs ended"
        )
    return table


def lags(outcomes: dict[Kind, Outcome]) -> Table:
    table = Table(
        "From the end of a job, in seconds",
        [
            "trigger",
            "until it is seen: median",
            "95 %",
            "latest",
            "beyond the schedule: latest",
            "over 1 s",
            "and until Airflow has it: median",
            "95 %",
            "latest",
            "last job to last event",
        ],
    )
    for kind, one in outcomes.items():
        seen = {job: noted["found"] for job, noted in one.polls.items() if noted["found"]}
        lag = [found - one.polls[job]["ends_at"] for job, found in seen.items()]
        known = seen if kind.next_poll else {job.id: job.ends_at for job in one.jobs}
        to_airflow = [at - known[job] for job, at in one.resumed.items() if job in known]
        beyond = late(kind, one) if kind.next_poll else []
        table.rows.append(
            [
                kind.name,
                *three(lag),
                f"{max(0.0, *beyond):.2f}" if beyond else "–",
                sum(seconds > 1 for seconds in beyond) if beyond else "–",
                *three(to_airflow),
                f"{one.ended_at - one.jobs[-1].ends_at:.0f}",
            ]
        )
    return table


def three(values: list[float]) -> list[str]:
    """Median, 95th percentile, largest."""
    if len(values) < 2:
        return ["–"] * 3
    return [f"{value:.1f}" for value in (median(values), quantiles(values, n=20)[-1], max(values))]
