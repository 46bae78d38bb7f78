"""
What this process knows of all journals and results, for the pages and for the webhooks.

It keeps what it has read from Airflow's database, and reads only what has changed since. The table of the
task state store has no index on ``key`` or ``updated_at``, so one query finds the changed rows, and a second
one reads them by primary key.
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
    Intent,
    JobRow,
    Open,
    TaskKey,
    decoded,
    intents,
    journal_rows,
    result_row,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

TaskStateStore: Any
try:
    from airflow.models.task_state_store import TaskStateStoreModel as TaskStateStore
except ImportError:  # below Airflow 3.3
    TaskStateStore = None

JOURNAL, REPORTED, RESULT = "magichour_journal", "magichour_reported", "return_value"
WATCH = MagicHourWatchLink().xcom_key  # every task of ours pushes it before it pays

CHUNK = 2000  # rows that one query reads by their ids
FRESH = 1.0  # seconds: requests within this time share one query
OVERLAP = timedelta(minutes=2)  # for rows with the time of another clock, or with a late commit
WHOLE_EVERY = 10.0  # seconds between two reads that also find deleted rows


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

    :ivar rows: of what tasks have paid for, by their journals, newest first.
    :ivar results: rows from the journals of sensors, and from the results of tasks whose own journal does not
        have the end.
    :ivar unreadable: journals that could not be read, by DAG.
    :ivar row_ids: the ids of the journals' rows in the task state store.
    :ivar by_short_id: the intents of all journals.
    :ivar by_job_id: the jobs that tasks have paid for.
    """

    def __init__(self) -> None:
        self.rows: list[JobRow] = []
        self.results: list[JobRow] = []
        self.unreadable: Counter[str] = Counter()
        self.row_ids: dict[TaskKey, int] = {}
        self.by_short_id: dict[str, Intent] = {}
        self.by_job_id: dict[str, Intent] = {}
        self._lock = threading.Lock()
        self._journals: dict[int, _Kept] = {}
        self._results: dict[Any, _Kept] = {}
        self._of_task: dict[TaskKey, dict[str, _Kept]] = {}
        self._rows_of: dict[TaskKey, list[JobRow]] = {}
        self._result_of: dict[TaskKey, JobRow] = {}
        self._read_at = self._whole_at = float("-inf")

    def refresh(self, session: Session, *, at_most: float = FRESH) -> None:
        """
        Read what has changed.

        :param at_most: seconds; data that is younger is not read again.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._read_at < at_most:
                return
            is_whole = now - self._whole_at > WHOLE_EVERY
            changed = self._read_journals(session, is_whole) | self._read_results(session, is_whole)
            self._read_at = now
            if is_whole:
                self._whole_at = now
            if changed:
                self._rebuild(changed)

    def _read_journals(self, session: Session, is_whole: bool) -> set[TaskKey]:
        if TaskStateStore is None:
            return set()
        store = TaskStateStore
        found = select(store.id, store.updated_at).where(store.key.in_((JOURNAL, REPORTED)))
        if not is_whole:
            found = found.where(store.updated_at >= _newest(self._journals) - OVERLAP)
        stamps: dict[Any, datetime] = dict(session.execute(found).all())
        changed = self._forget_missing(self._journals, stamps) if is_whole else set()
        columns = (store.dag_id, store.run_id, store.task_id, store.map_index, store.key, store.value)
        for ids in chunks(_changed(self._journals, stamps)):
            read = select(store.id, store.updated_at, *columns).where(store.id.in_(ids))
            for row_id, stamp, dag_id, run_id, task_id, map_index, key, value in session.execute(read):
                task = TaskKey(dag_id, run_id, task_id, map_index)
                self._journals[row_id] = self._keep(_Kept(stamp, task, key, decoded(value)))
                changed.add(task)
        return changed

    def _read_results(self, session: Session, is_whole: bool) -> set[TaskKey]:
        """What tasks of ours returned. Only they push the key ``WATCH``, and keys of XComs have an index."""
        watch, result = aliased(XComModel), aliased(XComModel)
        identity = (result.dag_run_id, result.task_id, result.map_index)
        same_task = and_(
            result.dag_run_id == watch.dag_run_id,
            result.task_id == watch.task_id,
            result.map_index == watch.map_index,
        )
        found = select(*identity, result.timestamp).join(watch, same_task)
        found = found.where(watch.key == WATCH, result.key == RESULT)
        if not is_whole:
            found = found.where(result.timestamp >= _newest(self._results) - OVERLAP)
        stamps: dict[Any, datetime] = {(run, of, index): at for run, of, index, at in session.execute(found)}
        changed = self._forget_missing(self._results, stamps) if is_whole else set()
        fresh = set(_changed(self._results, stamps))
        tasks = {task_id for _, task_id, _ in fresh}
        for runs in chunks({run for run, *_ in fresh}):
            read = select(*identity, result.timestamp, result.dag_id, result.run_id, result.value).where(
                result.dag_run_id.in_(runs), result.task_id.in_(tasks), result.key == RESULT
            )
            for run, task_id, map_index, stamp, dag_id, run_id, value in session.execute(read):
                if (run, task_id, map_index) in fresh:
                    task = TaskKey(dag_id, run_id, task_id, map_index)
                    kept = self._keep(_Kept(stamp, task, RESULT, decoded(value)))
                    self._results[run, task_id, map_index] = kept
                    changed.add(task)
        return changed

    def _keep(self, kept: _Kept) -> _Kept:
        self._of_task.setdefault(kept.task, {})[kept.key] = kept
        return kept

    def _forget_missing(self, known: dict[Any, _Kept], stamps: Mapping[Any, datetime]) -> set[TaskKey]:
        gone = [known.pop(one) for one in known.keys() - stamps.keys()]
        for kept in gone:
            self._of_task[kept.task].pop(kept.key, None)
        return {kept.task for kept in gone}

    def _rebuild(self, changed: Iterable[TaskKey]) -> None:
        for task in changed:
            kept = self._of_task[task]
            self._rows_of.pop(task, None)
            self._result_of.pop(task, None)
            if journal := kept.get(JOURNAL):
                reported = kept[REPORTED].value if REPORTED in kept else None
                try:
                    self._rows_of[task] = journal_rows(task, journal.value, reported, journal.stamp)
                except Exception:  # noqa: BLE001 (whatever a task has written there, the others are shown)
                    journal.value = None
            if (result := kept.get(RESULT)) and (row := result_row(task, result.value, result.stamp)):
                self._result_of[task] = row
            if not kept:
                del self._of_task[task]
        journals = [kept for kept in self._journals.values() if kept.key == JOURNAL]
        every = sorted((row for rows in self._rows_of.values() for row in rows), key=newest_first)
        rows = [row for row in every if not row.is_result]
        ended = {(row.task, row.job_id) for row in rows if row.open is None}
        results = (row for row in self._result_of.values() if (row.task, row.job_id) not in ended)
        # The record of a sensor, as soon as it has an end, says more than its result.
        of_sensors = [row for row in every if row.is_result and row.open is None]
        begun = [row for row in every if row.is_result and row.open is not None]
        self.results = list({(row.task, row.job_id): row for row in [*begun, *results, *of_sensors]}.values())
        self.rows = rows
        self.row_ids = {kept.task: row_id for row_id, kept in self._journals.items() if kept.key == JOURNAL}
        self.unreadable = Counter(kept.task.dag_id for kept in journals if not isinstance(kept.value, dict))
        self.by_short_id = {
            short_id: intent for kept in journals for short_id, intent in intents(kept.task, kept.value)
        }
        self.by_job_id = {
            row.job_id: Intent(row.task, row.conn_id, row.job_type, row.host)
            for row in rows
            if row.job_id and row.open is not Open.ANSWER
        }


def _newest(known: Mapping[Any, _Kept]) -> datetime:
    return max((kept.stamp for kept in known.values()), default=datetime.now(UTC))


def newest_first(row: JobRow) -> float:
    return -row.at.timestamp()


def _changed(known: Mapping[Any, _Kept], stamps: Mapping[Any, datetime]) -> list[Any]:
    return [one for one, stamp in stamps.items() if one not in known or known[one].stamp != stamp]


def chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(values)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


shared = Index()  # of this process
