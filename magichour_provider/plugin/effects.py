"""
What a webhook event changes in Airflow.

The end of a job wakes the task that waits for it. A job whose answer was lost is reported to the task that
paid for it. An event is only a hint: the task itself asks the API.
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
from magichour_provider.plugin.rows import TaskKey, decoded, dicts, text
from magichour_provider.task.ask import RESUMED as ANSWER_METHOD
from magichour_provider.task.record import KEY as JOURNAL_KEY
from magichour_provider.task.stores import REPORTED_KEY

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from magichour_provider.api.events import Event

REREAD = 0.4  # seconds between two reads of the journals
MAX_REPORTS = 5  # for one intent; the first ones are kept
LOCK_PAUSES = (0.05, 0.1, 0.2)  # seconds between attempts, while another process has locked the task instance
WAKE_AGAIN = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts, while the task is still running
MAX_LATER = 1000  # events that this process holds at the same time, until their tasks wait
# Repeated from ``triggers``, whose import would load the hook and the storage code. The method is
# ``JobMixin.execute_complete``.
TRIGGER, TRIGGER_METHOD = "magichour_provider.triggers.JobTrigger", "execute_complete"

Effect = Literal["woken", "early", "reported", "resumed", "known", "unknown"]

T = TypeVar("T")
_later: set[asyncio.Task[None]] = set()
_threads = CapacityLimiter(8)  # so that events leave threads for the pages and the API


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run a blocking function. If the caller is canceled, the thread still runs to its end."""
    return await run_sync(function, *arguments, limiter=_threads, abandon_on_cancel=True)


class Busy(Exception):
    """Another process has locked the task instance. The vendor must send the event again."""


async def apply(conn_id: str, event: Event) -> Effect:
    """
    Apply an event with a valid signature.

    :param conn_id: the connection to whose address the event was sent.
    :raises Busy: nothing was done.
    """
    task = index.shared.by_job_id.get(event.job_id)
    if task is not None and not event.is_end:
        return "known"
    if task is None:
        task = await in_thread(_read_task, event)
    if task is None:  # the index may be older than the paid call
        await asyncio.sleep(REREAD)
        task = await in_thread(_read_task, event)
    if task is None:
        return "unknown"
    for pause in LOCK_PAUSES:
        try:
            effect = await in_thread(_apply_once, task, conn_id, event)
        except Busy:
            await asyncio.sleep(pause)
            continue
        if effect == "early" and len(_later) < MAX_LATER:
            later = asyncio.create_task(_wake_later(task, conn_id, event))
            _later.add(later)
            later.add_done_callback(_later.discard)
        return effect
    raise Busy


async def _wake_later(task: TaskKey, conn_id: str, event: Event) -> None:
    """Wake a task whose job ends before the task waits. If this process dies, a poll detects the end."""
    for pause in WAKE_AGAIN:
        await asyncio.sleep(pause)
        with suppress(Busy):
            if await in_thread(_apply_once, task, conn_id, event) != "early":
                return


def _read_task(event: Event) -> TaskKey | None:
    """Find the task instance whose journal has the job, or else the intent."""
    with create_session(scoped=False) as session:
        index.shared.refresh(session, max_age=REREAD)
    return index.shared.by_job_id.get(event.job_id) or index.shared.by_short_id.get(event.short_id or "")


def _apply_once(task: TaskKey, conn_id: str, event: Event) -> Effect:
    with create_session(scoped=False) as session:
        return _apply(session, task, conn_id, event)


def _apply(session: Session, task: TaskKey, conn_id: str, event: Event) -> Effect:
    ti = _locked(session, task)
    if ti is None:
        return "unknown"
    journal = decoded(_backend().get(_scope(task), JOURNAL_KEY, session=session))
    jobs = dicts(journal, "jobs")
    if any(job.get("job_id") == event.job_id for job in jobs):
        is_current = jobs[-1].get("job_id") == event.job_id and jobs[-1].get("conn_id") in (None, conn_id)
        if not event.is_end or not is_current:
            return "known"
        if ti.state in (TaskInstanceState.RUNNING, TaskInstanceState.QUEUED):
            return "early"
        return "woken" if _wake(session, ti, event) else "known"
    intents = dicts(journal, "intents")
    intent = next((intent for intent in intents if intent.get("short_id") == event.short_id), None)
    if intent is None or text(intent.get("conn_id")) != conn_id:
        return "unknown"
    if not _report(session, task, conn_id, event):
        return "known"
    if ti.state == TaskInstanceState.AWAITING_INPUT and ti.next_method == ANSWER_METHOD:
        handle_event_submit(TriggerEvent({"reported": event.short_id}), task_instance=ti, session=session)
        return "resumed"
    if ti.state == TaskInstanceState.FAILED:
        note = {"job_id": event.job_id, "short_id": event.short_id, "conn_id": conn_id}
        session.add(Log("magichour_reported", ti, owner="magichour", extra=json.dumps(note)))
    return "reported"


def _locked(session: Session, task: TaskKey) -> TaskInstance | None:
    """
    Read the task instance, and lock it until the session ends.

    ``handle_event_submit`` takes no lock. Without this lock, it could overwrite a change that another API
    server or the triggerer has just committed, and could reset a running task.

    :raises Busy: another process has locked it.
    """
    ti = TaskInstance
    # Only the audit log needs the run, and events seldom write to it.
    query = select(ti).options(lazyload(ti.dag_run))
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
    """
    Resume a task that waits in the triggerer for this provider's trigger.

    :returns: False if the task does not wait for it.
    """
    if ti.state != TaskInstanceState.DEFERRED or ti.next_method != TRIGGER_METHOD:
        return False
    # Without row locks, another process may have changed the state since, so read it again.
    waiting = select(Trigger.classpath).join(Trigger.task_instance)
    waiting = waiting.where(Trigger.id == ti.trigger_id, TaskInstance.state == TaskInstanceState.DEFERRED)
    if session.scalar(waiting) != TRIGGER:
        return False
    hint = TriggerEvent({"job_id": event.job_id, "status": event.status, "source": "webhook"})
    # The part of ``Trigger.submit_event`` that resumes a task. The rest is not needed: it queries the task
    # instance, which is loaded already, and assets and callbacks, which this trigger does not have.
    handle_event_submit(hint, task_instance=ti, session=session)
    return True


def _report(session: Session, task: TaskKey, conn_id: str, event: Event) -> bool:
    """
    Write a report for the task: this is the job of its intent. The caller has the lock, so no report is lost.

    :returns: False if the report exists already, or if there are enough reports.
    """
    written = decoded(_backend().get(_scope(task), REPORTED_KEY, session=session))
    reported = written if isinstance(written, dict) else {}
    known = dicts(reported, event.short_id)
    if len(known) >= MAX_REPORTS or any(report.get("job_id") == event.job_id for report in known):
        return False
    new = {
        "job_id": event.job_id,
        "conn_id": conn_id,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "source": "webhook",
    }
    value = json.dumps({**reported, event.short_id: [*known, new]})
    _backend().set(_scope(task), REPORTED_KEY, value, session=session)
    return True


def _backend() -> Any:
    from airflow.state import get_state_backend  # Airflow 3.3

    return get_state_backend()


def _scope(task: TaskKey) -> Any:
    from airflow.state import TaskScope  # Airflow 3.3

    return TaskScope(dag_id=task.dag_id, run_id=task.run_id, task_id=task.task_id, map_index=task.map_index)
