"""
How soon an event of a webhook wakes its task, and what it costs: two workers of the API server, PostgreSQL,
and 10,000 task instances that wait; no scheduler, so what is woken stays *scheduled* and can be counted.

An event counts as done when it is answered: by then its task is scheduled, and the database has it.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles

import psutil

from magichour_provider.emulator.webhooks import signed
from tools.database import Postgres, until
from tools.stack import Stack

from .harness import Goal, Options, Sample, goal_table
from .studio import execute
from .table import Table

WAITING, A_SECOND = 10_000, 20
SECRET = "whsec_of_the_benchmark"  # noqa: S105

FILL = """
insert into dag_bundle (name, active) values ('bench', true) on conflict do nothing;
insert into dag (dag_id, bundle_name, is_stale, is_paused, max_active_tasks, max_consecutive_failed_dag_runs,
                 has_task_concurrency_limits, timetable_type, exceeds_max_non_backfill, partition_mapper_info)
values ('waking', 'bench', false, false, 16, 0, false, '', false, '[]');
insert into dag_run (dag_id, run_id, run_type, state, logical_date, run_after, start_date, clear_number)
select 'waking', 'run_' || n, 'manual', 'running', at, at, at, 0
from (select n, now() - n * interval '1 hour' as at from generate_series(0, {number} / 1000) n) as runs;
insert into trigger (id, classpath, kwargs, created_date)
select n, 'magichour_provider.triggers.JobTrigger', '{{}}', now() from generate_series(0, {number} - 1) n;
insert into task_instance (id, dag_id, run_id, task_id, map_index, state, pool, try_number, max_tries,
                           pool_slots, start_date, updated_at, operator, trigger_id, next_method, next_kwargs)
select gen_random_uuid(), 'waking', 'run_' || n / 1000, 'video', n % 1000, 'deferred', 'default_pool', 1, 1,
       1, now(), now(), 'TalkingPhotoOperator', n, 'execute_complete', '{{}}'
from generate_series(0, {number} - 1) n;
insert into task_state_store (dag_run_id, task_id, map_index, key, dag_id, run_id, value, updated_at)
select dag_run.id, 'video', n % 1000, 'magichour_journal', dag_id, run_id,
       json_build_object('version', 1, 'intents', json_build_array(json_build_object(
            'short_id', lpad(to_hex(n), 8, '0'), 'try_number', 1, 'at', now(), 'max_tries', 1,
            'host', 'https://api.magichour.ai', 'conn_id', 'magichour_default', 'job_type', 'video',
            'outcome', 'job', 'job_id', 'cm' || n)),
        'jobs', json_build_array(json_build_object(
            'job_id', 'cm' || n, 'short_id', lpad(to_hex(n), 8, '0'), 'job_type', 'video',
            'conn_id', 'magichour_default', 'host', 'https://api.magichour.ai', 'submitted_at', now(),
            'max_tries', 1)))::text, now()
from generate_series(0, {number} - 1) n join dag_run on run_id = 'run_' || n / 1000;
analyze;
"""


def run(options: Options) -> list[Table]:
    seconds = 5 if options.quick else 30
    connection = json.dumps({"conn_type": "magichour", "password": "k", "extra": {"webhook_secret": SECRET}})
    with tempfile.TemporaryDirectory(prefix="waking-") as folder:
        dags = Path(folder) / "dags"
        dags.mkdir()
        with Stack(
            Path(folder),
            Postgres,
            dags=dags,
            daemons=(),
            emulator=None,
            settings={"API__WORKERS": 2},
        ) as stack:
            os.environ["AIRFLOW_CONN_MAGICHOUR_DEFAULT"] = connection  # the stack restores the environment
            execute(stack.database.url, FILL.format(number=WAITING))
            stack.start_daemon("api-server")
            until(lambda: stack.ask("GET", "monitor/health"), "the api-server")
            return measure(stack, A_SECOND * seconds)


def measure(stack: Stack, number: int) -> list[Table]:
    numbers = random.sample(range(WAITING), number + 40)
    first = [send(stack.api, one) for one in numbers[:40]]  # each worker reads the journals once
    api_server = psutil.Process(stack.daemons["api-server"].pid)
    events = paced(api_server, lambda at: send(stack.api, numbers[40 + at]), number)
    path = "dags/waking/dagRuns/run_{}/taskInstances/video/{}"

    def ask(at: int) -> float:
        began = time.perf_counter()
        stack.ask("GET", path.format(*divmod(numbers[40 + at], 1000)))
        return time.perf_counter() - began

    reads = paced(api_server, ask, number)
    ((woken,),) = stack.database.rows("select count(*) from task_instance where state = 'scheduled'")
    if woken != len(numbers):
        raise RuntimeError(f"{len(numbers)} events have woken {woken} tasks")
    rows = [
        (name, f"{1000 * median(times):.0f}", f"{1000 * quantiles(times, n=20)[-1]:.0f}", f"{1000 * cpu:.1f}")
        for name, (times, cpu) in (("an event", events), ("Airflow reads one task instance", reads))
    ]
    return [
        Table(
            f"{WAITING:,} tasks wait, {A_SECOND} ends a second, in milliseconds",
            ["", "median", "95 %", "API server CPU"],
            rows,
            [
                f"{number} of each, all tasks woken; two workers of the API server",
                f"the first event of a process, which reads all journals: {1000 * max(first):,.0f} ms",
            ],
        ),
        goal_table(
            [
                Goal("95 %: event to scheduled, seconds", 2, Sample((quantiles(events[0], n=20)[-1],))),
                Goal("CPU of an event, milliseconds", 15, Sample((1000 * events[1],))),
            ]
        ),
    ]


def paced(api_server: psutil.Process, call: Callable[[int], float], number: int) -> tuple[list[float], float]:
    """``A_SECOND`` calls a second, whatever they take: their seconds, and the CPU seconds of one."""
    before = cpu_seconds(api_server)
    began = time.perf_counter()
    with ThreadPoolExecutor(64) as pool:
        calls = []
        for at in range(number):
            time.sleep(max(0.0, began + at / A_SECOND - time.perf_counter()))
            calls.append(pool.submit(call, at))
        times = [one.result() for one in calls]
    return times, (cpu_seconds(api_server) - before) / number


def cpu_seconds(process: psutil.Process) -> float:
    """Of a process and all it has started."""
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def send(api: str, number: int) -> float:
    """Send the event that a job has ended. Seconds until it was taken."""
    job = {"id": f"cm{number}", "name": f"waking.video [mh-{number:08x}]", "status": "complete"}
    body = json.dumps({"type": "video.completed", "payload": job}).encode()
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{api}/magichour/webhooks/magichour_default", body, signed(SECRET, body), method="POST"
    )
    began = time.perf_counter()
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30):  # noqa: S310
                return time.perf_counter() - began
        except urllib.error.HTTPError as error:  # as the vendor, which sends again what was not taken
            if error.code != 503 or time.perf_counter() - began > 30:
                raise
            time.sleep(0.2)
