"""Rows of Airflow's database as tasks would leave them: runs, task instances, journals and results."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from airflow.models.dag import DagModel
from airflow.models.dagbundle import DagBundleModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance, uuid7
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import insert, select

from magichour_provider.links import watch_url
from magichour_provider.plugin.index import RESULT_KEY, WATCH_KEY
from magichour_provider.plugin.rows import TaskKey
from magichour_provider.task.record import KEY as JOURNAL_KEY
from magichour_provider.task.stores import REPORTED_KEY

if TYPE_CHECKING:
    from magichour_provider.emulator import Emulator

MEDIA = Path(__file__).parents[2] / "example_dags/media"
HOST = "https://api.magichour.ai"
numbers = itertools.count(1)


def dag(dag_id: str, *, bundle: str = "dags-folder") -> None:
    with create_session() as session:
        if session.get(DagBundleModel, bundle) is None:
            session.add(DagBundleModel(name=bundle))
            session.flush()
        if session.get(DagModel, dag_id) is None:
            session.add(
                DagModel(
                    dag_id=dag_id,
                    bundle_name=bundle,
                    is_stale=False,
                    is_paused=False,
                    max_active_tasks=16,
                    max_consecutive_failed_dag_runs=0,
                    has_task_concurrency_limits=False,
                )
            )


def task(
    dag_id: str,
    task_id: str = "video",
    *,
    run_id: str = "run1",
    map_index: int = -1,
    state: str | None = "success",
    label: str | None = None,
    at: datetime | None = None,
) -> TaskKey:
    """A task instance, with its DAG and its run."""
    dag(dag_id)
    at = at or datetime.now(UTC)
    with create_session() as session:
        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None:
            values = {
                "dag_id": dag_id,
                "run_id": run_id,
                "run_type": "manual",
                "state": "running",
                "logical_date": at,
                "run_after": at,
                "start_date": at,
                "clear_number": 0,
            }
            session.execute(insert(DagRun.__table__).values(**values))
        values = {
            "id": uuid7(),
            "dag_id": dag_id,
            "run_id": run_id,
            "task_id": task_id,
            "map_index": map_index,
            "state": state,
            "rendered_map_index": label,
            "pool": "default_pool",
            "try_number": 1,
            "max_tries": 1,
            "start_date": at,
            "operator": "TalkingPhotoOperator",
        }
        session.execute(insert(TaskInstance.__table__).values(**values))
    return TaskKey(dag_id, run_id, task_id, map_index)


def _run_id(session: Any, key: TaskKey) -> int:
    found = session.scalar(select(DagRun.id).where(DagRun.dag_id == key.dag_id, DagRun.run_id == key.run_id))
    return int(found)


def address(key: TaskKey) -> str:
    """The path of a task instance's page."""
    return "/" + watch_url(key).replace("/watch/", "/")


def store(key: TaskKey, name: str, value: object) -> None:
    """Write as the task's accessor does: the newest write wins."""
    pytest.importorskip("airflow.state", reason="journals are read from the task state store: Airflow 3.3")
    from airflow.state import TaskScope, get_state_backend

    scope = TaskScope(dag_id=key.dag_id, run_id=key.run_id, task_id=key.task_id, map_index=key.map_index)
    get_state_backend().set(scope, name, value if isinstance(value, str) else json.dumps(value))


def journal(key: TaskKey, *jobs: dict[str, Any], intents: list[dict[str, Any]] | None = None) -> TaskKey:
    store(key, JOURNAL_KEY, {"version": 1, "intents": intents or [], "jobs": list(jobs)})
    return key


def reported(key: TaskKey, short_id: str, job_id: str) -> None:
    store(
        key,
        REPORTED_KEY,
        {short_id: [{"job_id": job_id, "conn_id": "magichour_default", "at": stamp(), "source": "webhook"}]},
    )


def stamp(ago: timedelta = timedelta(0)) -> str:
    return (datetime.now(UTC) - ago).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def intent(outcome: str = "open", *, ago: timedelta = timedelta(minutes=5), **more: Any) -> dict[str, Any]:
    return {
        "short_id": f"{next(numbers):08x}",
        "try_number": 1,
        "at": stamp(ago),
        "max_tries": 1,
        "inputs": {},
        "host": HOST,
        "conn_id": "magichour_default",
        "job_type": "video",
        "estimated_credits": 221,
        "outcome": outcome,
        **more,
    }


def job(job_id: str | None = None, *, ago: timedelta = timedelta(minutes=5), **more: Any) -> dict[str, Any]:
    return {
        "job_id": job_id or f"cm{next(numbers):08x}",
        "job_type": "video",
        "conn_id": "magichour_default",
        "host": HOST,
        "submitted_at": stamp(ago),
        "credits_charged": 221,
        "max_tries": 1,
        **more,
    }


def ended(status: str = "complete", *, ago: timedelta = timedelta(minutes=2), **more: Any) -> dict[str, Any]:
    made = {"duration_seconds": 4.6, "width": 480, "height": 600, "size_bytes": 293_000}
    return {
        "status": status,
        "at": stamp(ago),
        "credits_charged": 221,
        **(made if status == "complete" else {}),
        **more,
    }


def xcom(key: TaskKey, name: str, value: object, *, at: datetime | None = None) -> None:
    with create_session() as session:
        session.merge(
            XComModel(
                dag_run_id=_run_id(session, key),
                task_id=key.task_id,
                map_index=key.map_index,
                key=name,
                dag_id=key.dag_id,
                run_id=key.run_id,
                value=value,
                timestamp=at or datetime.now(UTC),
            )
        )


def result(key: TaskKey, **values: Any) -> TaskKey:
    """The result of a task of this provider."""
    xcom(key, WATCH_KEY, "magichour/")
    xcom(key, RESULT_KEY, {"status": "complete", "credits_charged": 221, "duration_seconds": 4.6, **values})
    return key


def make_image(emulator: Emulator) -> str:
    """A finished job that made two images, paid for elsewhere."""
    answer = httpx.post(
        f"{emulator.url}/v1/ai-image-generator",
        json={"name": "lighthouse", "image_count": 2, "style": {"prompt": "a lighthouse"}},
        headers={"Authorization": f"Bearer {emulator.api_key}"},
    )
    return str(answer.raise_for_status().json()["id"])


def make_video(emulator: Emulator, name: str = "ada") -> str:
    """A finished job, paid for elsewhere."""
    body = {
        "name": name,
        "start_seconds": 0,
        "end_seconds": 1,
        "assets": {
            "image_file_path": emulator.put_asset(MEDIA / "ada.jpg", "jpg"),
            "audio_file_path": emulator.put_asset(MEDIA / "ada.mp3", "mp3"),
        },
    }
    answer = httpx.post(
        f"{emulator.url}/v1/ai-talking-photo",
        json=body,
        headers={"Authorization": f"Bearer {emulator.api_key}"},
    )
    return str(answer.raise_for_status().json()["id"])
