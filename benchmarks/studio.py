"""
How long the plugin's pages take, beside Airflow's own list of task instances: one api-server, PostgreSQL, and
10,000 jobs among 200,000 rows of the task state store. What is measured is a request, by a clock outside.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median, quantiles

from tools.database import Postgres, until
from tools.stack import Stack

from .harness import Goal, Options, Sample, goal_table
from .table import Table

JOBS, ROWS = 10_000, 200_000
MAPPED = 1000  # task instances in a run
PAUSE = 1.1  # seconds: longer than the plugin keeps what it has read, so that each page reads anew
OURS = "the list"
PAGES = {
    "Airflow's task instances": "api/v2/dags/~/dagRuns/~/taskInstances?limit=50&order_by=-start_date",
    OURS: "magichour/",
    "the list, one DAG, complete": "magichour/?dag_id=studio_1&state=complete",
    "the last page": "magichour/?page={last}",
    "one run": "magichour/dags/studio_1/runs/run_1/",
    "one task": "magichour/dags/studio_1/runs/run_1/tasks/video/3/",
    "a refresh": "magichour/?fragment",
}

# A tenth of the jobs are going on; of the others, one in twenty has failed.
FILL = """
insert into dag_bundle (name, active) values ('bench', true) on conflict do nothing;
insert into dag (dag_id, bundle_name, is_stale, is_paused, max_active_tasks, max_consecutive_failed_dag_runs,
                 has_task_concurrency_limits, timetable_type, exceeds_max_non_backfill, partition_mapper_info)
select 'studio_' || n, 'bench', false, false, 16, 0, false, '', false, '[]'
from generate_series(0, {dags} - 1) n;
insert into dag_run (dag_id, run_id, run_type, state, logical_date, run_after, start_date, clear_number)
select 'studio_' || n % {dags}, 'run_' || n, 'manual', 'running', at, at, at, 0
from (select n, now() - n * interval '1 hour' as at from generate_series(0, {runs} - 1) n) as runs;
insert into task_instance (id, dag_id, run_id, task_id, map_index, state, pool, try_number, max_tries,
                           pool_slots, start_date, updated_at, operator, rendered_map_index)
select gen_random_uuid(), dag_id, run_id, 'video', i,
       case when i % ({mapped} / {jobs} * 10) = 0 then 'deferred' else 'success' end, 'default_pool', 1, 1, 1,
       start_date + i * interval '1 second', now(), 'TalkingPhotoOperator', 'person ' || i
from dag_run, generate_series(0, {mapped} - 1) i;
insert into task_state_store (dag_run_id, task_id, map_index, key, dag_id, run_id, value, updated_at)
select id, 'video', i, case when is_job then 'magichour_journal' else 'cursor' end, dag_id, run_id,
       case when is_job then json_build_object('version', 1, 'intents', json_build_array(json_build_object(
            'short_id', short_id, 'try_number', 1, 'at', at, 'max_tries', 1, 'host', 'https://api.magichour.ai',
            'conn_id', 'magichour_default', 'job_type', 'video',
            'output_path', 's3://greetings/' || run_id || '/',
            'inputs', json_build_object('image_file_path', short_id, 'audio_file_path', short_id),
            'estimated_credits', 221, 'name', dag_id || '.video [mh-' || short_id || ']', 'outcome', 'job',
            'job_id', 'cm' || short_id)),
        'jobs', json_build_array(json_build_object(
            'job_id', 'cm' || short_id, 'short_id', short_id, 'job_type', 'video',
            'conn_id', 'magichour_default',
            'host', 'https://api.magichour.ai', 'submitted_at', at, 'credits_charged', 221, 'max_tries', 1,
            'inputs', json_build_object('image_file_path', short_id, 'audio_file_path', short_id),
            'ended', case when is_live then null else json_build_object(
                'status', case when i % 400 = 20 then 'error' else 'complete' end,
                'at', at, 'credits_charged', 221,
                'duration_seconds', 4.6, 'width', 480, 'height', 600, 'size_bytes', 293000,
                'output_path', 's3://greetings/' || run_id || '/cm' || short_id || '.mp4') end)))::text
       else repeat('{{"cursor": "page"}}', 20) end, start_date + i * interval '1 second'
from (select dag_run.*, i, i % ({mapped} / {jobs}) = 0 as is_job, i % ({mapped} / {jobs} * 10) = 0 as is_live,
             to_char(start_date + i * interval '1 second', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as at,
             substr(md5(run_id || i), 1, 8) as short_id
      from dag_run, generate_series(0, {mapped} - 1) i) as rows;
analyze;
"""


def run(options: Options) -> list[Table]:
    number, rounds = (5, 1) if options.quick else (12, 3)
    with tempfile.TemporaryDirectory(prefix="studio-") as folder:
        dags = Path(folder) / "dags"
        dags.mkdir()
        with Stack(Path(folder), Postgres, dags=dags, daemons=(), emulator=None) as stack:
            jobs_a_run = JOBS * MAPPED // ROWS
            fill = FILL.format(dags=20, runs=ROWS // MAPPED, mapped=MAPPED, jobs=jobs_a_run)
            execute(stack.database.url, fill)
            stack.start_daemon("api-server")
            until(lambda: stack.ask("GET", "monitor/health"), "the api-server")
            with urllib.request.urlopen(f"{stack.api}/auth/token", timeout=10) as answer:  # noqa: S310
                token = json.load(answer)["access_token"]
            return measure(stack.api, token, number, rounds)


def execute(url: str, statements: str) -> None:
    import psycopg2

    with psycopg2.connect(url.replace("+psycopg2", "")) as connection, connection.cursor() as cursor:
        cursor.execute(statements)


def measure(api: str, token: str, number: int, rounds: int) -> list[Table]:
    found: dict[str, list[list[float]]] = {name: [] for name in PAGES}
    cold = timed(api, token, PAGES[OURS])
    for path in 3 * list(PAGES.values()):  # warm: after that the database has settled, too
        time.sleep(PAUSE)
        timed(api, token, path.format(last=JOBS // 50))
    for _ in range(rounds):
        times: dict[str, list[float]] = {name: [] for name in PAGES}
        for _ in range(number):
            for name, path in random.sample(list(PAGES.items()), len(PAGES)):
                time.sleep(PAUSE)
                times[name].append(timed(api, token, path.format(last=JOBS // 50)))
        for name, values in times.items():
            found[name].append(values)
    samples = {
        name: (
            Sample(tuple(median(values) for values in of)),
            Sample(tuple(quantiles(values, n=20, method="inclusive")[-1] for values in of)),
        )
        for name, of in found.items()
    }
    (_, theirs), (_, ours) = next(iter(samples.values())), samples[OURS]
    return [
        Table(
            f"A page, in milliseconds: {JOBS:,} jobs among {ROWS:,} rows",
            ["", "median", "95 %"],
            [(name, middle.show(), high.show()) for name, (middle, high) in samples.items()],
            [
                f"{rounds * number} requests each, in random order, {PAUSE} s apart; one worker",
                f"the first page of a process, which reads all journals: {cold:,.0f} ms",
            ],
        ),
        goal_table([Goal("95 %: the list, of Airflow's own", 1, ours.over(theirs))]),
    ]


def timed(api: str, token: str, path: str) -> float:
    """Milliseconds until the whole answer is here."""
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{api}/{path}", headers={"Authorization": f"Bearer {token}"}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        answer.read()
    return 1000 * (time.perf_counter() - began)
