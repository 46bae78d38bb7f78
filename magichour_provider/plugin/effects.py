"""
What an event of the vendor changes in Airflow. It wakes the task whose job has ended, or it reports the job
of a lost answer. Both are hints: the task itself asks the API.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger, handle_event_submit
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import with_row_locks
from airflow.utils.state import TaskInstanceState
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from sqlalchemy import select
from sqlalchemy.orm import lazyload

from magichour_provider.plugin import index
from magichour_provider.plugin.index import JOURNAL, REPORTED
from magichour_provider.plugin.rows import TaskKey, decoded, dicts, text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from magichour_provider.api.events import Event

REREAD = 0.4  # seconds between two reads of the journals
MOST_REPORTS = 5  # for one intent; the first ones are kept
PAUSES = (0.05, 0.1, 0.2)  # seconds, while another process has locked the task instance
WAKE_AGAIN = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts, while the task is still running
MOST_LATER = 1000  # tasks that are woken later, at the same time
TRIGGER, RESUMED_BY_TRIGGER = "magichour_provider.triggers.JobTrigger", "execute_complete"
RESUMED_BY_ANSWER = "execute_answered"

Effect = Literal["woken", "early", "reported", "resumed", "known", "unknown"]

T = TypeVar("T")
_later: set[asyncio.Task[None]] = set()
_threads = CapacityLimiter(8)  # so that events leave threads for the pages and the API


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run a function that blocks. If the caller is canceled, the thread still runs to its end."""
    return await run_sync(function, *arguments, limiter=_threads, abandon_on_cancel=True)


class Busy(Exception):
    """Another process has locked the task instance. The vendor must send the event again."""


async def apply(conn_id: str, event: Event) -> Effect:
    """
    Apply an event whose signature is right.

    :param conn_id: the connection to whose address the event was sent.
    :raises Busy: nothing was done.
    """
    known = index.shared.by_job_id.get(event.job_id)
    if known is not None and not event.is_end:
        return "known"
    task = known.task if known else await in_thread(_read_task, event)
    if task is None:  # perhaps the index is older than the paid call
        await asyncio.sleep(REREAD)
        task = await in_thread(_read_task, event)
    if task is None:
        return "unknown"
    for pause in PAUSES:
        try:
            effect = await in_thread(_apply_once, task, conn_id, event)
        except Busy:
            await asyncio.sleep(pause)
            continue
        if effect == "early" and len(_later) < MOST_LATER:
            later = asyncio.create_task(_wake_later(task, conn_id, event))
            _later.add(later)
            later.add_done_callback(_later.discard)
        return effect
    raise Busy


async def _wake_later(task: TaskKey, conn_id: str, event: Event) -> None:
    """For a job that ends before its task waits in the triggerer. If this process dies, a poll finds it."""
    for pause in WAKE_AGAIN:
        await asyncio.sleep(pause)
        with suppress(Busy):
            if await in_thread(_apply_once, task, conn_id, event) != "early":
                return


def _read_task(event: Event) -> TaskKey | None:
    """The task instance whose journal has the job, or else the intent."""
    with create_session(scoped=False) as session:
        index.shared.refresh(session, at_most=REREAD)
    found = index.shared.by_job_id.get(event.job_id) or index.shared.by_short_id.get(event.short_id or "")
    return found.task if found else None


def _apply_once(task: TaskKey, conn_id: str, event: Event) -> Effect:
    with create_session(scoped=False) as session:
        return _apply(session, task, conn_id, event)


def _apply(session: Session, task: TaskKey, conn_id: str, event: Event) -> Effect:
    ti = _locked(session, task)
    if ti is None:
        return "unknown"
    journal = decoded(_backend().get(_scope(task), JOURNAL, session=session))
    jobs = dicts(journal, "jobs")
    if any(job.get("job_id") == event.job_id for job in jobs):
        is_current = jobs[-1].get("job_id") == event.job_id and jobs[-1].get("conn_id") in (None, conn_id)
        if not event.is_end or not is_current:
            return "known"
        if ti.state in (TaskInstanceState.RUNNING, TaskInstanceState.QUEUED):
            return "early"
        return "woken" if _wake(session, ti, event) else "known"
    intent = next((one for one in dicts(journal, "intents") if one.get("short_id") == event.short_id), None)
    if intent is None or text(intent.get("conn_id")) != conn_id:
        return "unknown"
    if not _report(session, task, conn_id, event):
        return "known"
    if ti.state == TaskInstanceState.AWAITING_INPUT and ti.next_method == RESUMED_BY_ANSWER:
        handle_event_submit(TriggerEvent({"reported": event.short_id}), task_instance=ti, session=session)
        return "resumed"
    if ti.state == TaskInstanceState.FAILED:
        note = {"job_id": event.job_id, "short_id": event.short_id, "conn_id": conn_id}
        session.add(Log("magichour_reported", ti, owner="magichour", extra=json.dumps(note)))
    return "reported"


def _locked(session: Session, task: TaskKey) -> TaskInstance | None:
    """
    The task instance, locked until the session ends.

    ``handle_event_submit`` takes no lock. Without this one, what another API server or the trigger has just
    committed could be overwritten, and a task that is already running be reset.

    :raises Busy: another process has locked it.
    """
    ti = TaskInstance
    query = select(ti).options(lazyload(ti.dag_run))  # only the audit log asks for it, seldom
    query = query.where(
        ti.dag_id == task.dag_id,
        ti.run_id == task.run_id,
        ti.task_id == task.task_id,
        ti.map_index == task.map_index,
    )
    found: TaskInstance | None = session.scalar(with_row_locks(query, session, of=ti, skip_locked=True))
    if found is None and session.scalar(query.with_only_columns(ti.id)) is not None:
        raise Busy
    return found


def _wake(session: Session, ti: TaskInstance, event: Event) -> bool:
    if ti.state != TaskInstanceState.DEFERRED or ti.next_method != RESUMED_BY_TRIGGER:
        return False
    # Once more, for databases without row locks: does the task still wait?
    waiting = select(Trigger.classpath).join(Trigger.task_instance)
    waiting = waiting.where(Trigger.id == ti.trigger_id, TaskInstance.state == TaskInstanceState.DEFERRED)
    if session.scalar(waiting) != TRIGGER:
        return False
    hint = TriggerEvent({"job_id": event.job_id, "status": event.status, "source": "webhook"})
    # The part of ``Trigger.submit_event`` that resumes a task. The rest of it is some queries, for the task
    # instance that is here already, and for assets and callbacks, which a deferred task's trigger never has.
    handle_event_submit(hint, task_instance=ti, session=session)
    return True


def _report(session: Session, task: TaskKey, conn_id: str, event: Event) -> bool:
    """
    Write down for the task that this is the job of its intent. The caller has the lock, so no report is lost.

    :returns: False if the report is there already, or if there are enough reports.
    """
    written = decoded(_backend().get(_scope(task), REPORTED, session=session))
    reported = written if isinstance(written, dict) else {}
    known = dicts(reported, event.short_id)
    if len(known) >= MOST_REPORTS or any(one.get("job_id") == event.job_id for one in known):
        return False
    new = {
        "job_id": event.job_id,
        "conn_id": conn_id,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "source": "webhook",
    }
    value = json.dumps({**reported, event.short_id: [*known, new]})
    _backend().set(_scope(task), REPORTED, value, session=session)
    return True


def _backend() -> Any:
    from airflow.state import get_state_backend  # Airflow 3.3

    return get_state_backend()


def _scope(task: TaskKey) -> Any:
    from airflow.state import TaskScope

    return TaskScope(dag_id=task.dag_id, run_id=task.run_id, task_id=task.task_id, map_index=task.map_index)
