"""
Deferred task instances by the thousand, in Airflow's database.

``create DAG RUN…``: Airflow makes DAG runs and their mapped instances, as for any run. ``defer RUN``, with a
plan on stdin: they are written down as deferred, with a trigger row each, field by field as Airflow's API
server does it when a worker says that its task defers. No worker is started, which would take a second each.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.sdk import timezone
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select, update


def create(dag: str, *runs: str) -> None:
    for run in runs:
        trigger_dag(dag_id=dag, run_id=run, triggered_by=DagRunTriggeredByType.TEST)


def defer(run: str, classpath: str, all_kwargs: list[dict[str, Any]]) -> None:
    now = timezone.utcnow()
    with create_session() as session:
        instances = session.scalars(
            select(TaskInstance.id).where(TaskInstance.run_id == run).order_by(TaskInstance.map_index)
        ).all()
        triggers = [Trigger(classpath, kwargs) for kwargs in all_kwargs]
        session.add_all(triggers)
        session.flush()
        session.execute(
            update(TaskInstance),
            [
                {
                    "id": instance,
                    "state": TaskInstanceState.DEFERRED,
                    "try_number": 1,
                    "start_date": now,
                    "trigger_id": trigger.id,
                    "trigger_timeout": now + timedelta(hours=1),
                    "next_method": "execute_complete",
                    "next_kwargs": {},
                }
                for instance, trigger in zip(instances, triggers, strict=True)
            ],
        )


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "create":
        create(*arguments)
    else:
        defer(*arguments, **json.load(sys.stdin))
