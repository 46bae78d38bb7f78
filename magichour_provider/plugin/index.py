"""
What this process knows of all journals and results, for the pages and for the webhooks.

The index keeps the rows that it has read from Airflow's database, and reads only the rows that have changed
since. The table of the task state store has no index on ``key`` or ``updated_at``. So one query finds the
changed rows, and a second query reads them by primary key.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow.models.xcom import XComModel
from sqlalchemy import and_, select
from sqlalchemy.orm import aliased

from magichour_provider.links import MagicHourWatchLink
from magichour_provider.plugin.rows import (
    JobRow,
    Pending,
    TaskKey,
    decoded,
    dicts,
    journal_rows,
    result_row,
    text,
)
from magichour_provider.task.record import KEY as JOURNAL_KEY
from magichour_provider.task.stores import REPORTED_KEY

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

StoreModel: Any
try:
    from airflow.models.task_state_store import TaskStateStoreModel as StoreModel
except ImportError:  # below Airflow 3.3
    StoreModel = None

RESULT_KEY = "return_value"
WATCH_KEY = MagicHourWatchLink().xcom_key  # every task of this provider pushes it before it pays

CHUNK = 2000  # rows that one query reads by their ids
MAX_AGE = 1.0  # seconds: requests within this time share one read
OVERLAP = timedelta(minutes=2)  # reads older rows again: clocks differ, and a commit may be late
FULL_READ_EVERY = 10.0  # seconds; only a full read finds deleted rows


@dataclass(slots=True)
class _Kept:
    """A row of the task state store or of XCom, as it was read."""

    stamp: datetime
    task: TaskKey
    key: str
    value: Any


class Index:
    """
    What this process knows of all journals and results. Safe to use from several threads.

    :ivar rows: the jobs and paid calls in the journals of the tasks that paid, newest first.
    :ivar results: rows from the journals of sensors, and from the results of tasks whose own journal does not
        have the end of the job.
    :ivar unreadable: the number of unreadable journals of each DAG.
    :ivar row_ids: the id of each journal's row in the task state store.
    :ivar by_short_id: the task that wrote each intent.
    :ivar by_job_id: the task that paid for each job.
    """

    def __init__(self) -> None:
        self.rows: list[JobRow] = []
        self.results: list[JobRow] = []
        self.unreadable: Counter[str] = Counter()
        self.row_ids: dict[TaskKey, int] = {}
        self.by_short_id: dict[str, TaskKey] = {}
        self.by_job_id: dict[str, TaskKey] = {}
        self._lock = threading.Lock()
        self._journals: dict[int, _Kept] = {}
        self._results: dict[Any, _Kept] = {}
        self._of_task: dict[TaskKey, dict[str, _Kept]] = {}
        self._rows_of: dict[TaskKey, list[JobRow]] = {}
        self._result_of: dict[TaskKey, JobRow] = {}
        self._read_at = self._fully_read_at = float("-inf")

    def refresh(self, session: Session, *, max_age: float = MAX_AGE) -> None:
        """
        Read the rows that have changed.

        :param max_age: seconds; if the last read is younger, nothing is read.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._read_at < max_age:
                return
            is_full = now - self._fully_read_at > FULL_READ_EVERY
            changed = self._read_journals(session, is_full) | self._read_results(session, is_full)
            self._read_at = now
            if is_full:
                self._fully_read_at = now
            if changed:
                self._rebuild(changed)

    def _read_journals(self, session: Session, is_full: bool) -> set[TaskKey]:
        """
        Read journals and reports.

        :returns: the task instances that have changed.
        """
        if StoreModel is None:
            return set()
        store = StoreModel
        found = select(store.id, store.updated_at).where(store.key.in_((JOURNAL_KEY, REPORTED_KEY)))
        if not is_full:
            found = found.where(store.updated_at >= _newest(self._journals) - OVERLAP)
        stamps: dict[Any, datetime] = dict(session.execute(found).all())
        changed = self._forget_missing(self._journals, stamps) if is_full else set()
        columns = (store.dag_id, store.run_id, store.task_id, store.map_index, store.key, store.value)
        for ids in chunks(_changed(self._journals, stamps)):
            read = select(store.id, store.updated_at, *columns).where(store.id.in_(ids))
            for row_id, stamp, dag_id, run_id, task_id, map_index, key, value in session.execute(read):
                task = TaskKey(dag_id, run_id, task_id, map_index)
                self._journals[row_id] = self._keep(_Kept(stamp, task, key, decoded(value)))
                changed.add(task)
        return changed

    def _read_results(self, session: Session, is_full: bool) -> set[TaskKey]:
        """
        Read what tasks of this provider returned. Only they push ``WATCH_KEY``, and the column ``key`` of the
        XComs has an index.

        :returns: the task instances that have changed.
        """
        watch, result = aliased(XComModel), aliased(XComModel)
        identity = (result.dag_run_id, result.task_id, result.map_index)
        same_task = and_(
            result.dag_run_id == watch.dag_run_id,
            result.task_id == watch.task_id,
            result.map_index == watch.map_index,
        )
        found = select(*identity, result.timestamp).join(watch, same_task)
        found = found.where(watch.key == WATCH_KEY, result.key == RESULT_KEY)
        if not is_full:
            found = found.where(result.timestamp >= _newest(self._results) - OVERLAP)
        stamps: dict[Any, datetime] = {
            (run, task_id, map_index): stamp for run, task_id, map_index, stamp in session.execute(found)
        }
        changed = self._forget_missing(self._results, stamps) if is_full else set()
        fresh = set(_changed(self._results, stamps))
        tasks = {task_id for _, task_id, _ in fresh}
        for runs in chunks({run for run, *_ in fresh}):
            read = select(*identity, result.timestamp, result.dag_id, result.run_id, result.value).where(
                result.dag_run_id.in_(runs), result.task_id.in_(tasks), result.key == RESULT_KEY
            )
            for run, task_id, map_index, stamp, dag_id, run_id, value in session.execute(read):
                if (run, task_id, map_index) in fresh:
                    task = TaskKey(dag_id, run_id, task_id, map_index)
                    kept = self._keep(_Kept(stamp, task, RESULT_KEY, decoded(value)))
                    self._results[run, task_id, map_index] = kept
                    changed.add(task)
        return changed

    def _keep(self, kept: _Kept) -> _Kept:
        self._of_task.setdefault(kept.task, {})[kept.key] = kept
        return kept

    def _forget_missing(self, known: dict[Any, _Kept], stamps: Mapping[Any, datetime]) -> set[TaskKey]:
        gone = [known.pop(row_id) for row_id in known.keys() - stamps.keys()]
        for kept in gone:
            self._of_task[kept.task].pop(kept.key, None)
        return {kept.task for kept in gone}

    def _rebuild(self, changed: Iterable[TaskKey]) -> None:
        """Renew the public attributes after the rows of these task instances have changed."""
        for task in changed:
            self._rebuild_task(task)
        journals = {row_id: kept for row_id, kept in self._journals.items() if kept.key == JOURNAL_KEY}
        every = sorted((row for rows in self._rows_of.values() for row in rows), key=newest_first)
        rows = [row for row in every if not row.is_result]
        ended = {(row.task, row.job_id) for row in rows if row.pending is None}
        results = (row for row in self._result_of.values() if (row.task, row.job_id) not in ended)
        # Of one job of one task, the last of these rows counts. A sensor's journal has more fields than its
        # result, but only once it has the end.
        of_sensors = [row for row in every if row.is_result]
        ended_of_sensors = [row for row in of_sensors if row.pending is None]
        unended_of_sensors = [row for row in of_sensors if row.pending is not None]
        in_order = [*unended_of_sensors, *results, *ended_of_sensors]
        self.results = list({(row.task, row.job_id): row for row in in_order}.values())
        self.rows = rows
        self.row_ids = {kept.task: row_id for row_id, kept in journals.items()}
        self.unreadable = Counter(
            kept.task.dag_id for kept in journals.values() if not isinstance(kept.value, dict)
        )
        self.by_short_id = {
            short_id: kept.task
            for kept in journals.values()
            for intent in dicts(kept.value, "intents")
            if (short_id := text(intent.get("short_id")))
        }
        self.by_job_id = {
            row.job_id: row.task for row in rows if row.job_id and row.pending is not Pending.ANSWER
        }

    def _rebuild_task(self, task: TaskKey) -> None:
        kept = self._of_task[task]
        self._rows_of.pop(task, None)
        self._result_of.pop(task, None)
        if journal := kept.get(JOURNAL_KEY):
            reported = kept[REPORTED_KEY].value if REPORTED_KEY in kept else None
            try:
                self._rows_of[task] = journal_rows(task, journal.value, reported, journal.stamp)
            except Exception:  # noqa: BLE001 (a task can write anything there; show the other journals)
                journal.value = None
        if (result := kept.get(RESULT_KEY)) and (row := result_row(task, result.value, result.stamp)):
            self._result_of[task] = row
        if not kept:
            del self._of_task[task]


def _newest(known: Mapping[Any, _Kept]) -> datetime:
    return max((kept.stamp for kept in known.values()), default=datetime.now(UTC))


def newest_first(row: JobRow) -> float:
    """Sorts by the negated time, so that the newest row is first."""
    return -row.at.timestamp()


def _changed(known: Mapping[Any, _Kept], stamps: Mapping[Any, datetime]) -> list[Any]:
    """The ids of new rows, and of rows whose time has changed."""
    return [row_id for row_id, stamp in stamps.items() if row_id not in known or known[row_id].stamp != stamp]


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(values)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


shared = Index()  # of this process
