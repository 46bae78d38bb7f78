"""
Turns journals and results into rows for the pages. It reads no database.

A journal may be damaged, or from another version. A value that cannot be read is left out, so that the rest
of the page still works.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, NamedTuple

from magichour_provider.api.jobs import JOBS, JobType

# States in which no try of the task instance is active: it has ended, or it waits for its next try or for a
# person. In every other state, a try may still change the journal.
INACTIVE_STATES = (
    "success",
    "failed",
    "skipped",
    "upstream_failed",
    "removed",
    "up_for_retry",
    "awaiting_input",
)
# States of a task that failed or was removed: no try follows unless a person clears it.
STOPPED_STATES = ("failed", "upstream_failed", "removed")


class TaskKey(NamedTuple):
    """A task instance, over all its tries."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


class State(StrEnum):
    """The state of a job, in the order in which the page lists the states."""

    NEEDS_YOU = "needs-you"
    SUBMITTED = "submitted"
    RENDERING = "rendering"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELED = "canceled"
    DELETED = "deleted"
    NOT_CHARGED = "not-charged"
    LOST = "lost"

    @property
    def label(self) -> str:
        return _LABELS[self]


_LABELS = {
    State.NEEDS_YOU: "Needs you",
    State.SUBMITTED: "Submitted",
    State.RENDERING: "Rendering",
    State.COMPLETE: "Complete",
    State.FAILED: "Failed, refunded",
    State.CANCELED: "Canceled, refunded",
    State.DELETED: "Deleted",
    State.NOT_CHARGED: "Not charged",
    State.LOST: "Answer lost",
}
_ENDS = {
    "complete": State.COMPLETE,
    "error": State.FAILED,
    "canceled": State.CANCELED,
    "deleted": State.DELETED,
}
_ADVICE = {
    State.FAILED: "Refunded. Correct the input, then clear the task to try again.",
    State.CANCELED: "Somebody canceled the job at Magic Hour. It was refunded.",
    State.DELETED: "Somebody deleted the job at Magic Hour. It was not refunded.",
}


class Preview(NamedTuple):
    """
    How a card shows the file of a job.

    :ivar element: the HTML element that plays or shows the file.
    :ivar drawing: the symbol of ``page.html`` that the card shows until a person clicks on it.
    """

    element: Literal["video", "audio", "img"]
    drawing: Literal["person", "wave", "picture"]


PREVIEWS: dict[JobType, Preview] = {
    "video": Preview("video", "person"),
    "audio": Preview("audio", "wave"),
    "image": Preview("img", "picture"),
}


class Pending(StrEnum):
    """What the journal does not know yet. The state of the task instance decides how a page shows it."""

    ANSWER = "answer"  # the paid call was sent, and its answer is not known
    END = "end"  # the job has not ended, as far as Airflow knows
    DELIVERY = "delivery"  # the job is complete, and its file is not at its output path


@dataclass(slots=True)
class JobRow:
    """
    One job, or one paid call that has no job.

    :ivar at: when it was submitted.
    :ivar number: its position among the jobs of its task instance; the play URL has this number.
    :ivar pending: what the journal does not know yet, or None.
    :ivar credits: its cost; an estimate unless ``is_final``.
    :ivar is_made: the vendor has its file.
    :ivar advice: what happened and what a person can do, in one or two sentences.
    :ivar is_result: the row is from a task's result or a sensor's journal, so another task may have paid.
    :ivar sensors: the task instances that waited for the job and did not pay.
    :ivar label: the name of the mapped task instance.
    """

    task: TaskKey
    at: datetime
    state: State
    number: int = 0
    pending: Pending | None = None
    job_id: str | None = None
    job_type: JobType = "video"
    short_id: str | None = None
    conn_id: str | None = None
    host: str | None = None
    credits: float | None = None
    is_final: bool = False
    is_made: bool = False
    seconds: float | None = None
    width: int | None = None
    height: int | None = None
    size_bytes: int | None = None
    output_path: str | None = None
    error: str | None = None
    advice: str | None = None
    is_result: bool = False
    sensors: tuple[TaskKey, ...] = ()
    task_state: str | None = None
    label: str | None = None


def journal_rows(task: TaskKey, journal: Any, reported: Any, stamp: datetime) -> list[JobRow]:
    """
    The jobs of one journal, and its paid calls that have no job.

    :param reported: the reports of webhooks and of the command line about this task instance.
    :param stamp: when the journal was written; the time of every entry that has none of its own.
    """
    intents, jobs = dicts(journal, "intents"), dicts(journal, "jobs")
    paths = {intent.get("short_id"): intent.get("output_path") for intent in intents}
    rows = [_job_row(task, number, job, paths, stamp) for number, job in enumerate(jobs)]
    known = {row.job_id for row in rows}
    for intent in intents:
        row = _row(task, intent, stamp)
        reports = [text(report.get("job_id")) for report in dicts(reported, intent.get("short_id"))]
        match intent.get("outcome"):
            case "open":
                rows.append(replace(row, pending=Pending.ANSWER, job_id=reports[0] if reports else None))
            case "no_job" if intent is intents[-1]:
                why = "No job was made. The task's log says why."
                rows.append(replace(row, state=State.NOT_CHARGED, advice=why))
            case "refused" if intent is intents[-1] and not reports:
                why = "Magic Hour answered HTTP 502 or 503 and said that no job was made."
                rows.append(replace(row, state=State.NOT_CHARGED, advice=why))
            case "paid_again" if not reports:
                why = "It is not known whether this call was charged. A person chose to pay again."
                rows.append(replace(row, state=State.LOST, advice=why))
            case "refused" | "paid_again":
                why = (
                    "A second paid job: the answer to its paid call was lost, and the job was reported later."
                    " No task uses this job. Its file is in Magic Hour's library."
                )
                rows += [
                    replace(row, state=State.NEEDS_YOU, job_id=job_id, advice=why)
                    for job_id in reports
                    if job_id not in known
                ]
    return rows


def _job_row(
    task: TaskKey, number: int, job: Mapping[str, Any], paths: Mapping[Any, Any], stamp: datetime
) -> JobRow:
    """:param paths: the output paths of the journal's intents, by short id."""
    row = replace(
        _row(task, job, stamp),
        number=number,
        job_id=text(job.get("job_id")),
        is_result=job.get("watched") is True,
    )
    end = job.get("ended")
    if not isinstance(end, dict):
        return replace(row, state=State.RENDERING, pending=Pending.END)
    state = _ENDS.get(str(end.get("status")), State.COMPLETE)
    is_made = state is State.COMPLETE
    final = number_of(end.get("credits_charged"))
    output_path = text(end.get("output_path"))
    is_wanted = bool(paths.get(job.get("short_id")) or job.get("output_path"))
    error = [text(end.get(key)) for key in ("error_code", "error_message")]
    return replace(
        row,
        state=state,
        pending=Pending.DELIVERY if is_made and is_wanted and not output_path else None,
        is_made=is_made,
        credits=row.credits if final is None else final,
        is_final=final is not None,
        output_path=output_path,
        error=": ".join(filter(None, error)) or None,
        advice=_ADVICE.get(state),
        **_sizes(end),
    )


def _row(task: TaskKey, entry: Mapping[str, Any], stamp: datetime) -> JobRow:
    """
    A row with what intents and jobs have in common.

    :param entry: an intent or a job of the journal.
    """
    return JobRow(
        task,
        time_of(entry.get("submitted_at", entry.get("at"))) or stamp,
        State.SUBMITTED,
        job_type=job_type_of(entry.get("job_type")),
        short_id=text(entry.get("short_id")),
        conn_id=text(entry.get("conn_id")),
        host=text(entry.get("host")),
        credits=number_of(entry.get("credits_charged", entry.get("estimated_credits"))),
    )


def result_row(task: TaskKey, result: Any, stamp: datetime) -> JobRow | None:
    """
    A row from what a task of this provider returned, or None if the result names no job.

    :param stamp: when the task returned it.
    """
    job_id = text(result.get("job_id")) if isinstance(result, dict) else None
    if job_id is None:
        return None
    is_complete = result.get("status") == "complete"
    return JobRow(
        task,
        stamp,
        State.COMPLETE if is_complete else State.SUBMITTED,
        job_id=job_id,
        job_type=result_type(result),
        credits=number_of(result.get("credits_charged")),
        is_final=is_complete,
        is_made=is_complete,
        is_result=True,
        output_path=text(result.get("output_path")),
        **_sizes(result),
    )


def with_end_of(row: JobRow, end: JobRow) -> JobRow:
    """
    The row, with the end of another row.

    :param row: of the task that paid.
    :param end: of another task, which has seen the end of the same job.
    """
    return replace(
        end,
        task=row.task,
        at=row.at,
        number=row.number,
        short_id=row.short_id,
        conn_id=row.conn_id,
        host=row.host,
        job_type=row.job_type,
        credits=row.credits if end.credits is None else end.credits,
    )


def resolved(row: JobRow, task_state: str | None) -> JobRow:
    """
    The row, with the state and the advice that follow from the state of its task instance.

    :param row: a row with ``pending``.
    :param task_state: may be None if a try is active: such states are not read.
    """
    is_active = task_state not in INACTIVE_STATES
    has_stopped = task_state in STOPPED_STATES
    state, advice = row.state, row.advice
    match row.pending:
        case Pending.ANSWER if is_active:
            state, advice = State.SUBMITTED, "The paid call was sent, and the task waits for the answer."
        case Pending.ANSWER:
            state, advice = State.NEEDS_YOU, _lost(row, task_state)
        case Pending.END if has_stopped:
            state = State.NEEDS_YOU
            advice = (
                "The job is paid for, and the task stopped before the job ended. Clear the task: it picks up "
                "the job, free of charge."
            )
        case Pending.END if not is_active and task_state != "up_for_retry":
            state, advice = State.SUBMITTED, "The task did not wait for the job."
        case Pending.DELIVERY if has_stopped:
            state = State.NEEDS_YOU
            advice = (
                "The job is complete and paid for, and its file was not delivered. Clear the task: it "
                "downloads the file, free of charge."
            )
    return replace(row, state=state, advice=advice, task_state=task_state)


def _lost(row: JobRow, task_state: str | None) -> str:
    """The advice for a paid call whose answer was lost."""
    if row.job_id:
        return (
            "The answer to the paid call was lost, and the job was reported later. Clear the task: it picks "
            "up the job, free of charge."
        )
    if task_state == "awaiting_input":
        return (
            "The answer to the paid call was lost. Open the task's required action, and choose: adopt the "
            "job, or pay again."
        )
    return (
        "It is not known whether this was charged: the answer to the paid call was lost. Clear the task: it "
        "asks what to do, and pays nothing by itself."
    )


def decoded(value: Any) -> Any:
    """Decode JSON as Airflow's accessors do; None if it is not JSON."""
    try:
        while isinstance(value, str):
            value = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return value


def dicts(value: Any, key: Any) -> list[dict[str, Any]]:
    """The dicts in the list under this key of ``value``; empty if there is no such list."""
    found = value.get(key) if isinstance(value, dict) else None
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def number_of(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Infinity, NaN or a huge number would break a sum.
    return value if is_number and abs(value) < 1e12 else None


def time_of(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found


def job_type_of(value: Any) -> JobType:
    return next((name for name in JOBS if name == value), "video")


def result_type(result: Mapping[str, Any]) -> JobType:
    """The type of the job that a task returned; the name of one field of the result shows it."""
    return next((name for name, spec in JOBS.items() if spec.result_field in result), "video")


def _sizes(found: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row that measure the file, from the end of a job or from a result."""
    counts = {key: found.get(key) for key in ("width", "height", "size_bytes")}
    return {
        "seconds": number_of(found.get("duration_seconds")),
        **{key: value if type(value) is int and value > 0 else None for key, value in counts.items()},
    }
