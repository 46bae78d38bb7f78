"""
The queries of the pages: jobs, totals, and the states of task instances. They read Airflow's database only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import and_, select, tuple_

from magichour_provider.plugin import index
from magichour_provider.plugin.index import JOURNAL, RESULT, chunks, newest_first
from magichour_provider.plugin.rows import (
    SETTLED,
    JobRow,
    Open,
    State,
    TaskKey,
    completed,
    decoded,
    dicts,
    job_type_of,
    result_type,
    settle,
    text,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from magichour_provider.api.jobs import JobType

PAGE_SIZE = 50
LONGEST_NEEDS = 10  # jobs in the list of what needs a person


@dataclass(frozen=True)
class Filters:
    """The filters in the path or in the query string."""

    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    state: State | None = None
    since: date | None = None
    until: date | None = None

    @property
    def task(self) -> TaskKey | None:
        """The task instance, if the filters name exactly one."""
        if self.dag_id is None or self.run_id is None or self.task_id is None:
            return None
        return TaskKey(
            self.dag_id, self.run_id, self.task_id, -1 if self.map_index is None else self.map_index
        )

    @property
    def match_all(self) -> bool:
        return replace(self, state=None) == Filters()

    def match(self, row: JobRow) -> bool:
        """Does a row match? Without the state, which is not known yet."""
        return (
            any(map(self._is_of, (row.task, *row.sensors)))
            and (self.since is None or row.at.date() >= self.since)
            and (self.until is None or row.at.date() <= self.until)
        )

    def _is_of(self, task: TaskKey) -> bool:
        return (
            self.dag_id in (None, task.dag_id)
            and self.run_id in (None, task.run_id)
            and self.task_id in (None, task.task_id)
            and self.map_index in (None, task.map_index)
        )


@dataclass
class Totals:
    """
    The totals of some jobs: what was made, and what it cost.

    :ivar at_stake: credits of paid calls whose answer was lost.
    """

    made: Counter[JobType] = field(default_factory=Counter)
    final: float = 0
    estimated: float = 0
    refunded: int = 0
    at_stake: float = 0

    @property
    def credits(self) -> float:
        return self.final + self.estimated

    def include(self, other: Totals) -> None:
        self.made += other.made
        self.final += other.final
        self.estimated += other.estimated
        self.refunded += other.refunded
        self.at_stake += other.at_stake

    def add(self, row: JobRow) -> None:
        cost = row.credits or 0
        if row.is_made:
            self.made[row.job_type] += 1
        if row.state in (State.FAILED, State.CANCELED):
            self.refunded += 1
        elif row.state is State.LOST or row.open is Open.ANSWER:
            self.at_stake += cost
        elif row.state is State.NOT_CHARGED:
            pass
        elif row.is_final:
            self.final += cost
        else:
            self.estimated += cost


@dataclass
class Page:
    """
    Everything that a page shows.

    :ivar rows: of this page, newest first.
    :ivar counts: the number of jobs in each state, without the filter of the state.
    :ivar needs: the first jobs that need a person.
    :ivar dag_ids: the DAGs that have jobs.
    :ivar conn_ids: the connections with which jobs were made.
    :ivar is_live: a job is in progress.
    :ivar task_state: the state of the task instance in the filters, if it has no jobs.
    :ivar unreadable: journals that could not be read.
    """

    filters: Filters
    number: int
    rows: list[JobRow]
    counts: Counter[State]
    totals: Totals
    by_dag: dict[str, Totals]
    by_day: dict[date, Totals]
    needs: list[JobRow]
    dag_ids: list[str]
    conn_ids: list[str]
    is_live: bool
    task_state: str | None
    unreadable: int

    @property
    def total(self) -> int:
        return self.counts[self.filters.state] if self.filters.state else self.counts.total()

    @property
    def last_number(self) -> int:
        return max(1, -(-self.total // PAGE_SIZE))


class Playable(NamedTuple):
    """What is needed to ask the vendor for a file."""

    job_id: str
    job_type: JobType
    conn_id: str | None
    host: str | None


def read_page(session: Session, permitted: Collection[str], filters: Filters, number: int) -> Page:
    """
    :param permitted: the DAGs that the user may read; nothing of another DAG is shown.
    :param number: the number of the page, from 1.
    """
    seen = index.shared
    seen.refresh(session)
    known = [row for row in seen.rows if row.task.dag_id in permitted]
    if results := [row for row in seen.results if row.task.dag_id in permitted]:
        known = _with_results(known, results)
    rows = known if filters.match_all else [row for row in known if filters.match(row)]
    task_state = None
    if filters.task and not rows:
        task_state, rows = _without_jobs(session, filters.task, known)
    opened = {row.task for row in rows if row.open}
    states = _settled_states(session, [seen.row_ids[task] for task in opened if task in seen.row_ids])
    if filters.task:
        states.setdefault(filters.task, task_state)
    rows = [settle(row, states.get(row.task)) if row.open else row for row in rows]
    counts = Counter(row.state for row in rows)
    needs = [row for row in rows if row.state is State.NEEDS_YOU]
    is_live = any(row.open and row.task_state not in SETTLED for row in rows)
    if filters.state:
        rows = [row for row in rows if row.state is filters.state]
    cells: dict[tuple[str, date], Totals] = {}
    for row in rows:
        cells.setdefault((row.task.dag_id, row.at.date()), Totals()).add(row)
    totals, by_dag, by_day = Totals(), dict[str, Totals](), dict[date, Totals]()
    for (dag_id, day), cell in cells.items():
        for one in (totals, by_dag.setdefault(dag_id, Totals()), by_day.setdefault(day, Totals())):
            one.include(cell)
    page = Page(
        filters=filters,
        number=number,
        rows=rows[(number - 1) * PAGE_SIZE : number * PAGE_SIZE],
        counts=counts,
        totals=totals,
        by_dag=dict(sorted(by_dag.items(), key=lambda of: -of[1].credits)),
        by_day=by_day,
        needs=needs[:LONGEST_NEEDS],
        dag_ids=sorted({row.task.dag_id for row in known}),
        conn_ids=sorted({row.conn_id for row in known if row.conn_id}),
        is_live=is_live or (task_state is not None and task_state not in SETTLED),
        task_state=task_state,
        unreadable=sum(count for dag_id, count in seen.unreadable.items() if dag_id in permitted),
    )
    _label(session, [*page.rows, *page.needs])
    return page


def _with_results(rows: list[JobRow], results: list[JobRow]) -> list[JobRow]:
    """Add what other tasks have seen of a job: to the row of the task that paid, or as a row of its own."""
    seen: dict[str | None, list[JobRow]] = {}
    for result in results:
        seen.setdefault(result.job_id, []).append(result)
    merged = []
    for row in rows:
        # The row of a job that was only reported shows no file. What a sensor fetched is a row beside it.
        is_reported = row.open is Open.ANSWER or row.state is State.NEEDS_YOU
        merged.append(row if is_reported else _with_end(row, seen.pop(row.job_id, [])))
    for of_job in seen.values():
        first = min(of_job, key=_is_ended)
        merged.append(_with_end(first, of_job))
    return sorted(merged, key=newest_first)


def _with_end(row: JobRow, results: list[JobRow]) -> JobRow:
    """The row, with the end that one of the results has, if it has none itself."""
    ends = [result for result in results if _is_ended(result)]
    if ends and not _is_ended(row):
        row = completed(row, max(ends, key=lambda end: (end.is_made, end.at)))
    sensors = tuple(result.task for result in results if result.task != row.task)
    return replace(row, sensors=sensors) if sensors else row


def _is_ended(row: JobRow) -> bool:
    return row.open in (None, Open.DELIVERY) and row.state is not State.SUBMITTED


def _without_jobs(session: Session, task: TaskKey, known: list[JobRow]) -> tuple[str | None, list[JobRow]]:
    """The state of a task instance that has no jobs; and the job, if it is a sensor that waits for one."""
    ti = TaskInstance
    found = next(_of_tasks(session, {task}, ti, ti.state, ti.start_date), None)
    if found is None:
        return None, []
    *_, state, started = found
    job_id = text(rendered_fields(session, task).get("job_id"))
    rows = [replace(row, sensors=(task,)) for row in known if job_id and row.job_id == job_id]
    if job_id and not rows:
        at = started or datetime.now(UTC)
        rows = [JobRow(task, at, State.RENDERING, open=Open.END, job_id=job_id)]
    return state or "none", rows


def _settled_states(session: Session, journals: Collection[int]) -> dict[TaskKey, str | None]:
    """
    The states of those task instances with these journals that do not continue by themselves. There may be
    many others, which need not be read.
    """
    if not journals:  # always so on an Airflow without a task state store
        return {}
    ti, store = TaskInstance, index.TaskStateStore
    same_task = and_(
        ti.dag_id == store.dag_id,
        ti.run_id == store.run_id,
        ti.task_id == store.task_id,
        ti.map_index == store.map_index,
    )
    states = select(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.state).join(store, same_task)
    return {
        TaskKey(dag_id, run_id, task_id, map_index): state
        for ids in chunks(journals)
        for dag_id, run_id, task_id, map_index, state in session.execute(
            states.where(store.id.in_(ids), ti.state.in_(SETTLED))
        )
    }


def _label(session: Session, rows: list[JobRow]) -> None:
    """Fill in the names of mapped instances, from ``map_index_template``."""
    mapped = [row for row in rows if row.task.map_index >= 0]
    labels = {
        tuple(task): label
        for *task, label in _of_tasks(
            session, {row.task for row in mapped}, TaskInstance, TaskInstance._rendered_map_index
        )
    }
    for row in mapped:
        row.label = labels.get(row.task) or str(row.task.map_index)


def find_job(session: Session, task: TaskKey, number: int) -> Playable | None:
    """
    A job of a task instance, read now.

    :param number: its place in the journal; 0 if there is only the task's result.
    """
    if index.TaskStateStore is not None:
        for *_, journal in _of_tasks(
            session, {task}, index.TaskStateStore, index.TaskStateStore.value, key=JOURNAL
        ):
            if jobs := dicts(decoded(journal), "jobs"):
                job = jobs[number] if number < len(jobs) else {}
                return _playable(job, job.get("conn_id"), job.get("host"))
    for *_, value in _of_tasks(session, {task}, XComModel, XComModel.value, key=RESULT):
        result = decoded(value)
        if number == 0 and isinstance(result, dict):
            conn_id = rendered_fields(session, task).get("magichour_conn_id")
            return _playable({**result, "job_type": result_type(result)}, conn_id, None)
    return None


def rendered_fields(session: Session, task: TaskKey) -> dict[str, Any]:
    """The templated arguments of a task instance; Airflow keeps those of a task's last 30 runs."""
    fields = RenderedTaskInstanceFields
    for *_, rendered in _of_tasks(session, {task}, fields, fields.rendered_fields):
        return rendered if isinstance(rendered, dict) else {}
    return {}


def _playable(job: Mapping[str, Any], conn_id: Any, host: Any) -> Playable | None:
    job_id = text(job.get("job_id"))
    if job_id is None:
        return None
    return Playable(job_id, job_type_of(job.get("job_type")), text(conn_id), text(host))


def _of_tasks(
    session: Session, tasks: Collection[TaskKey], model: Any, *columns: Any, key: str | None = None
) -> Iterator[Any]:
    """Rows of a task instance's four ids and ``columns``."""
    identity = (model.dag_id, model.run_id, model.task_id, model.map_index)
    query = select(*identity, *columns).where(tuple_(*identity).in_(tasks))
    yield from session.execute(query if key is None else query.where(model.key == key))
