"""
Turns journals and results into rows for people. It reads no database.

A journal may be from another version, or damaged. What cannot be read is left out, and does not break a page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from magichour_provider.api.jobs import JOBS, JobType

# States in which a task instance does not continue by itself. In any other state it does.
SETTLED = ("success", "failed", "skipped", "upstream_failed", "removed", "up_for_retry", "awaiting_input")
STOPPED = ("failed", "upstream_failed", "removed")


class TaskKey(NamedTuple):
    """A task instance, over all its tries."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


class Intent(NamedTuple):
    """The task instance of a short id or a job id, and what is needed to ask the vendor about it."""

    task: TaskKey
    conn_id: str | None
    job_type: JobType
    host: str | None


class State(StrEnum):
    """What became of a job, in the order in which the page lists them."""

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
    State.CANCELED: "Somebody stopped it at Magic Hour, which refunds it.",
    State.DELETED: "Somebody deleted it at Magic Hour, which does not refund it.",
}


class Open(StrEnum):
    """What the journal leaves open: only the state of the task instance shows what it means."""

    ANSWER = "answer"  # the paid call was sent, and its answer is not known
    END = "end"  # the job has not ended, as far as Airflow knows
    DELIVERY = "delivery"  # made and paid for, and not at its place


@dataclass(slots=True)
class JobRow:
    """
    One job, or one paid call that has none.

    :ivar at: when it was submitted.
    :ivar number: its place among the jobs of its task instance, by which it is played.
    :ivar open: what the journal leaves open, or None.
    :ivar credits: what it cost; an estimate unless ``is_final``.
    :ivar is_made: the vendor has its file.
    :ivar advice: what happened and what a person can do, in a sentence or two.
    :ivar is_result: the row is what a task returned, or a sensor's record: another task may have paid.
    :ivar sensors: the task instances that waited for it and did not pay.
    :ivar label: the task instance's own name among its mapped siblings.
    """

    task: TaskKey
    at: datetime
    state: State
    number: int = 0
    open: Open | None = None
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
    The jobs of one journal, and its paid calls that have none.

    :param reported: what webhooks and the command line have reported about it.
    :param stamp: when the journal was written, for what has no time of its own.
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
                rows.append(replace(row, open=Open.ANSWER, job_id=reports[0] if reports else None))
            case "no_job" if intent is intents[-1]:
                rows.append(
                    replace(row, state=State.NOT_CHARGED, advice="No job was made. The task's log says why.")
                )
            case "refused" if intent is intents[-1] and not reports:
                why = "Magic Hour refused (HTTP 502 or 503) and says that no job was made."
                rows.append(replace(row, state=State.NOT_CHARGED, advice=why))
            case "paid_again" if not reports:
                why = "A person chose to pay again. Whether this call was charged is not known."
                rows.append(replace(row, state=State.LOST, advice=why))
            case "refused" | "paid_again":
                why = (
                    "A second paid job: the answer to its paid call was lost, and the job was reported later."
                    " It replaces nothing. Its file is in Magic Hour's library."
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
    row = replace(
        _row(task, job, stamp),
        number=number,
        job_id=text(job.get("job_id")),
        is_result=job.get("watched") is True,
    )
    end = job.get("ended")
    if not isinstance(end, dict):
        return replace(row, state=State.RENDERING, open=Open.END)
    state = _ENDS.get(str(end.get("status")), State.COMPLETE)
    is_made = state is State.COMPLETE
    final = number_of(end.get("credits_charged"))
    output_path = text(end.get("output_path"))
    is_wanted = bool(paths.get(job.get("short_id")) or job.get("output_path"))
    error = [text(end.get(key)) for key in ("error_code", "error_message")]
    return replace(
        row,
        state=state,
        open=Open.DELIVERY if is_made and is_wanted and not output_path else None,
        is_made=is_made,
        credits=row.credits if final is None else final,
        is_final=final is not None,
        output_path=output_path,
        error=": ".join(filter(None, error)) or None,
        advice=_ADVICE.get(state),
        **_sizes(end),
    )


def _row(task: TaskKey, of: Mapping[str, Any], stamp: datetime) -> JobRow:
    """What an intent and a job have in common."""
    return JobRow(
        task,
        time_of(of.get("submitted_at", of.get("at"))) or stamp,
        State.SUBMITTED,
        job_type=job_type_of(of.get("job_type")),
        short_id=text(of.get("short_id")),
        conn_id=text(of.get("conn_id")),
        host=text(of.get("host")),
        credits=number_of(of.get("credits_charged", of.get("estimated_credits"))),
    )


def result_row(task: TaskKey, result: Any, stamp: datetime) -> JobRow | None:
    """A row from the result of a task of ours."""
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


def completed(row: JobRow, end: JobRow) -> JobRow:
    """The row of a job, completed with its end, which another task has seen."""
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


def settle(row: JobRow, task_state: str | None) -> JobRow:
    """Complete a row that is still open, by the state of its task instance."""
    goes_on = task_state not in SETTLED
    stopped = task_state in STOPPED
    state, advice = row.state, row.advice
    match row.open:
        case None:
            return row
        case Open.ANSWER if goes_on:
            state, advice = State.SUBMITTED, "The paid call was sent, and the task waits for its answer."
        case Open.ANSWER:
            state, advice = State.NEEDS_YOU, _lost(row, task_state)
        case Open.END if stopped:
            state = State.NEEDS_YOU
            advice = (
                "Paid for, and the task stopped before the end. Clear the task: it picks the job up free of "
                "charge."
            )
        case Open.END if not goes_on and task_state != "up_for_retry":
            state, advice = State.SUBMITTED, "The task did not wait for it."
        case Open.DELIVERY if stopped:
            state = State.NEEDS_YOU
            advice = "Made and paid for, and not delivered. Clear the task: it downloads it free of charge."
    return replace(row, state=state, advice=advice, task_state=task_state)


def _lost(row: JobRow, task_state: str | None) -> str:
    if row.job_id:
        return (
            "The answer was lost, and the job was reported later. Clear the task: it picks the job up free "
            "of charge."
        )
    if task_state == "awaiting_input":
        return "The answer was lost, and the task asks what to do: adopt the job, or pay again. Answer it."
    return (
        "The answer was lost, so it is not known whether this was charged. Clear the task: it asks what to "
        "do, and pays nothing by itself."
    )


def intents(task: TaskKey, journal: Any) -> Iterator[tuple[str, Intent]]:
    """By their short ids."""
    for intent in dicts(journal, "intents"):
        if short_id := text(intent.get("short_id")):
            yield (
                short_id,
                Intent(
                    task,
                    text(intent.get("conn_id")),
                    job_type_of(intent.get("job_type")),
                    text(intent.get("host")),
                ),
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
    found = value.get(key) if isinstance(value, dict) else None
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def number_of(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e12 else None  # what arithmetic can bear


def time_of(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found and found.tzinfo is None else found


def job_type_of(value: Any) -> JobType:
    return next((name for name in JOBS if name == value), "video")


def result_type(result: Mapping[str, Any]) -> JobType:
    return next((name for name, spec in JOBS.items() if spec.result_field in result), "video")


def _sizes(of: Mapping[str, Any]) -> dict[str, Any]:
    pixels_and_bytes = ("width", "height", "size_bytes")
    whole = {key: of.get(key) for key in pixels_and_bytes}
    return {
        "seconds": number_of(of.get("duration_seconds")),
        **{key: value if type(value) is int and value > 0 else None for key, value in whole.items()},
    }
