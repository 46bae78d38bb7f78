"""
The data of the pages: jobs, totals, and the states of task instances.

The queries read Airflow's database, and nothing else.
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
from magichour_provider.plugin.index import RESULT_KEY, chunks, newest_first
from magichour_provider.plugin.rows import (
    INACTIVE_STATES,
    JobRow,
    Pending,
    State,
    TaskKey,
    decoded,
    dicts,
    job_type_of,
    resolved,
    result_type,
    text,
    with_end_of,
)
from magichour_provider.task.record import KEY as JOURNAL_KEY

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from magichour_provider.api.jobs import JobType

PAGE_SIZE = 50
MAX_NEEDS = 10  # jobs in the list of what needs a person


@dataclass(frozen=True)
class Filters:
    """The filters in the path or in the query string. None matches everything."""

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
        """Does a row match all filters but the state? The state may not be known yet."""
        return (
            any(map(self._matches_task, (row.task, *row.sensors)))
            and (self.since is None or row.at.date() >= self.since)
            and (self.until is None or row.at.date() <= self.until)
        )

    def _matches_task(self, task: TaskKey) -> bool:
        return (
            self.dag_id in (None, task.dag_id)
            and self.run_id in (None, task.run_id)
            and self.task_id in (None, task.task_id)
            and self.map_index in (None, task.map_index)
        )


@dataclass
class Totals:
    """
    The totals of some jobs.

    :ivar made: the number of results of each type.
    :ivar final: credits that were charged.
    :ivar estimated: credits of jobs whose final cost is not known.
    :ivar refunded: the number of refunded jobs.
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

    def add_totals(self, other: Totals) -> None:
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
        elif row.state is State.LOST or row.pending is Pending.ANSWER:
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

    :ivar number: the number of the page, from 1.
    :ivar rows: the jobs of this page, newest first.
    :ivar counts: the number of jobs in each state, without the filter of the state.
    :ivar needs: the first jobs that need a person.
    :ivar dag_ids: the DAGs that have jobs.
    :ivar conn_ids: the connections with which jobs were made.
    :ivar is_live: a job or its task is in progress, so the page refreshes itself.
    :ivar task_state: the state of the task instance in the filters, if it has no jobs.
    :ivar unreadable: the number of journals that could not be read.
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
    """What a request to the vendor for a file needs."""

    job_id: str
    job_type: JobType
    conn_id: str | None
    host: str | None


def read_page(session: Session, permitted: Collection[str], filters: Filters, number: int) -> Page:
    """
    :param permitted: the DAGs that the user may read; nothing of another DAG is shown.
    :param number: the number of the page, from 1.
    """
    index.shared.refresh(session)
    known = _known_rows(permitted)
    matching = known if filters.match_all else [row for row in known if filters.match(row)]
    states: dict[TaskKey, str | None] = {}
    task_state = None
    if filters.task and not matching:
        task_state, matching = _without_jobs(session, filters.task, known)
        states[filters.task] = task_state
    matching = _resolved_rows(session, matching, states)
    rows = [row for row in matching if row.state is filters.state] if filters.state else matching
    totals, by_dag, by_day = _sums(rows)
    is_live = task_state is not None and task_state not in INACTIVE_STATES
    is_live |= any(row.pending and row.task_state not in INACTIVE_STATES for row in matching)
    unreadable = index.shared.unreadable
    page = Page(
        filters=filters,
        number=number,
        rows=rows[(number - 1) * PAGE_SIZE : number * PAGE_SIZE],
        counts=Counter(row.state for row in matching),
        totals=totals,
        by_dag=by_dag,
        by_day=by_day,
        needs=[row for row in matching if row.state is State.NEEDS_YOU][:MAX_NEEDS],
        dag_ids=sorted({row.task.dag_id for row in known}),
        conn_ids=sorted({row.conn_id for row in known if row.conn_id}),
        is_live=is_live,
        task_state=task_state,
        unreadable=sum(count for dag_id, count in unreadable.items() if dag_id in permitted),
    )
    _label(session, [*page.rows, *page.needs])
    return page


def _known_rows(permitted: Collection[str]) -> list[JobRow]:
    """The rows of the permitted DAGs, one for each job, newest first."""
    rows = [row for row in index.shared.rows if row.task.dag_id in permitted]
    results = [row for row in index.shared.results if row.task.dag_id in permitted]
    return _with_results(rows, results) if results else rows


def _with_results(rows: list[JobRow], results: list[JobRow]) -> list[JobRow]:
    """
    Add what other tasks have seen of the jobs.

    A result is added to the row of the task that paid for the job, or becomes a row of its own.
    """
    seen: dict[str | None, list[JobRow]] = {}
    for result in results:
        seen.setdefault(result.job_id, []).append(result)
    merged = []
    for row in rows:
        # The row of a job that was only reported shows no file. What a sensor fetched is a second row.
        is_reported = row.pending is Pending.ANSWER or row.state is State.NEEDS_YOU
        merged.append(row if is_reported else _with_end(row, seen.pop(row.job_id, [])))
    for of_job in seen.values():
        first = min(of_job, key=_is_ended)
        merged.append(_with_end(first, of_job))
    return sorted(merged, key=newest_first)


def _with_end(row: JobRow, results: list[JobRow]) -> JobRow:
    """The row, with the sensors among the results. If the row has no end, it gets the end of a result."""
    ends = [result for result in results if _is_ended(result)]
    if ends and not _is_ended(row):
        row = with_end_of(row, max(ends, key=lambda end: (end.is_made, end.at)))
    sensors = tuple(result.task for result in results if result.task != row.task)
    return replace(row, sensors=sensors) if sensors else row


def _is_ended(row: JobRow) -> bool:
    return row.pending in (None, Pending.DELIVERY) and row.state is not State.SUBMITTED


def _without_jobs(session: Session, task: TaskKey, known: list[JobRow]) -> tuple[str | None, list[JobRow]]:
    """
    Read a task instance that has no jobs.

    :returns: its state, or None if it does not exist; and if it is a sensor, the job that it waits for.
    """
    ti = TaskInstance
    found = next(_of_tasks(session, {task}, ti, ti.state, ti.start_date), None)
    if found is None:
        return None, []
    *_, state, started = found
    job_id = text(_rendered_fields(session, task).get("job_id"))
    rows = [replace(row, sensors=(task,)) for row in known if job_id and row.job_id == job_id]
    if job_id and not rows:
        at = started or datetime.now(UTC)
        rows = [JobRow(task, at, State.RENDERING, pending=Pending.END, job_id=job_id)]
    return state or "none", rows


def _resolved_rows(
    session: Session, rows: list[JobRow], states: Mapping[TaskKey, str | None]
) -> list[JobRow]:
    """
    Resolve the pending rows.

    :param states: states of task instances that were read already.
    """
    row_ids = index.shared.row_ids
    tasks = {row.task for row in rows if row.pending}
    inactive = _inactive_states(session, [row_ids[task] for task in tasks if task in row_ids])
    states = {**states, **inactive}
    return [resolved(row, states.get(row.task)) if row.pending else row for row in rows]


def _inactive_states(session: Session, journals: Collection[int]) -> dict[TaskKey, str | None]:
    """
    The states of the task instances of these journals, but only those in ``INACTIVE_STATES``.

    Active task instances can be many, and are not read.

    :param journals: ids of rows in the task state store.
    """
    if not journals:  # always so on an Airflow without a task state store
        return {}
    ti, store = TaskInstance, index.StoreModel
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
            states.where(store.id.in_(ids), ti.state.in_(INACTIVE_STATES))
        )
    }


def _sums(rows: list[JobRow]) -> tuple[Totals, dict[str, Totals], dict[date, Totals]]:
    """
    :param rows: newest first.
    :returns: the totals of all rows; of each DAG, the most expensive first; and of each day, newest first.
    """
    # Each row is added once, to its cell. There are far fewer cells than rows.
    cells: dict[tuple[str, date], Totals] = {}
    for row in rows:
        cells.setdefault((row.task.dag_id, row.at.date()), Totals()).add(row)
    totals, by_dag, by_day = Totals(), dict[str, Totals](), dict[date, Totals]()
    for (dag_id, day), cell in cells.items():
        for total in (totals, by_dag.setdefault(dag_id, Totals()), by_day.setdefault(day, Totals())):
            total.add_totals(cell)
    return totals, dict(sorted(by_dag.items(), key=lambda item: -item[1].credits)), by_day


def _label(session: Session, rows: list[JobRow]) -> None:
    """Fill in the names of mapped task instances, from ``map_index_template``."""
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
    Read a job of a task instance from the database, not from the index.

    :param number: its position in the journal; 0 if only the task's result has the job.
    """
    store = index.StoreModel
    if store is not None:
        for *_, journal in _of_tasks(session, {task}, store, store.value, key=JOURNAL_KEY):
            if jobs := dicts(decoded(journal), "jobs"):
                job = jobs[number] if number < len(jobs) else {}
                return _playable(job, job.get("conn_id"), job.get("host"))
    for *_, value in _of_tasks(session, {task}, XComModel, XComModel.value, key=RESULT_KEY):
        result = decoded(value)
        if number == 0 and isinstance(result, dict):
            conn_id = _rendered_fields(session, task).get("magichour_conn_id")
            return _playable({**result, "job_type": result_type(result)}, conn_id, None)
    return None


def _rendered_fields(session: Session, task: TaskKey) -> dict[str, Any]:
    """The rendered arguments of a task instance. Airflow keeps those of a task's last 30 runs."""
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
    """
    Select rows of these task instances.

    :returns: for each row the four ids of its task instance, then ``columns``.
    """
    identity = (model.dag_id, model.run_id, model.task_id, model.map_index)
    query = select(*identity, *columns).where(tuple_(*identity).in_(tasks))
    yield from session.execute(query if key is None else query.where(model.key == key))
