"""
Deferred task instances by the thousand, in Airflow's database.

``create DAG RUN NUMBER`` makes a DAG run and so many mapped instances of its task ``wait``, as the scheduler
does when it expands it. ``defer RUN``, with a plan on stdin, writes them down as deferred with a trigger row
each, field by field as Airflow's API server does when a worker says that its task defers. No worker is
started, which would take a second or so for each.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.dagbag import DBDagBag
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.sdk import timezone
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import insert, select, text, update

TASK = "wait"


def create(dag_id: str, run: str, number: str) -> None:
    with create_session() as session:
        trigger_dag(dag_id=dag_id, run_id=run, triggered_by=DagRunTriggeredByType.TEST, session=session)
        unmapped = session.scalars(
            select(TaskInstance).where(TaskInstance.run_id == run, TaskInstance.task_id == TASK)
        ).one()
        dag_run = unmapped.get_dagrun(session=session)
        dag = DBDagBag().get_dag_for_run(dag_run, session)
        assert dag
        version = unmapped.dag_version_id
        session.delete(unmapped)
        session.execute(
            insert(TaskInstance),
            [
                TaskInstance.insert_mapping(
                    run, dag.get_task(TASK), index, dag_version_id=version, dag_run=dag_run
                )
                for index in range(int(number))
            ],
        )


def defer(run: str, classpath: str, all_kwargs: list[dict[str, Any]]) -> None:
    now = timezone.utcnow()
    with create_session() as session:
        instances = session.scalars(
            select(TaskInstance.id)
            .where(TaskInstance.run_id == run, TaskInstance.task_id == TASK)
            .order_by(TaskInstance.map_index)
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
        # As autovacuum does where they come one by one; without it, queries are planned for an empty table.
        session.execute(text("analyze task_instance, trigger"))


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if verb == "create":
        create(*arguments)
    else:
        defer(*arguments, **json.load(sys.stdin))
