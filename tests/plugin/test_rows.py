"""What a page shows of a journal: the state, the cost, and what to do."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from seeding import ended, intent, job

from magichour_provider.api.jobs import JOBS
from magichour_provider.plugin.queries import Totals
from magichour_provider.plugin.rows import (
    PREVIEWS,
    JobRow,
    State,
    TaskKey,
    journal_rows,
    resolved,
    result_row,
    with_end_of,
)

TASK = TaskKey("greetings", "run1", "video", -1)
NOW = datetime(2026, 11, 26, tzinfo=UTC)


def rows(
    *jobs: dict[str, Any],
    intents: list[dict[str, Any]] | None = None,
    reported: dict[str, Any] | None = None,
    task: str | None = "success",
) -> list[JobRow]:
    found = journal_rows(TASK, {"version": 1, "intents": intents or [], "jobs": list(jobs)}, reported, NOW)
    return [resolved(row, task) if row.pending else row for row in found]


def report(lost: dict[str, Any], job_id: str = "cm-reported") -> dict[str, Any]:
    return {lost["short_id"]: [{"job_id": job_id, "conn_id": "magichour_default", "source": "webhook"}]}


@pytest.mark.parametrize(
    ("end", "state", "cost", "made"),
    [
        ("complete", State.COMPLETE, 200, 1),
        ("error", State.FAILED, 0, 0),
        ("canceled", State.CANCELED, 0, 0),
        ("deleted", State.DELETED, 200, 0),
    ],
)
def test_an_ended_job_costs_what_its_end_says(end: str, state: State, cost: float, made: int) -> None:
    (row,) = rows(job(credits_charged=221, ended=ended(end, credits_charged=200)))
    totals = Totals()
    totals.add(row)
    assert row.state is state
    assert (totals.final, totals.estimated, totals.made["video"]) == (cost, 0, made)


@pytest.mark.parametrize(
    ("task", "state"),
    [
        ("deferred", State.RENDERING),
        ("running", State.RENDERING),
        (None, State.RENDERING),
        ("up_for_retry", State.RENDERING),
        ("up_for_reschedule", State.RENDERING),
        ("success", State.SUBMITTED),
        ("failed", State.NEEDS_YOU),
        ("removed", State.NEEDS_YOU),
    ],
)
def test_a_job_without_an_end_is_what_its_task_says(task: str | None, state: State) -> None:
    (row,) = rows(job(), task=task)
    totals = Totals()
    totals.add(row)
    assert row.state is state
    assert (totals.final, totals.estimated) == (0, 221)


@pytest.mark.parametrize(
    ("task", "state"),
    [
        ("running", State.SUBMITTED),
        ("deferred", State.SUBMITTED),
        ("queued", State.SUBMITTED),
        ("failed", State.NEEDS_YOU),
        ("up_for_retry", State.NEEDS_YOU),
        ("awaiting_input", State.NEEDS_YOU),
    ],
)
def test_a_paid_call_without_an_answer_is_at_stake(task: str, state: State) -> None:
    (row,) = rows(intents=[intent("open", estimated_credits=512)], task=task)
    totals = Totals()
    totals.add(row)
    assert row.state is state
    assert (totals.credits, totals.at_stake, totals.made.total()) == (0, 512, 0)


def test_a_lost_answer_that_reported_itself_asks_for_a_clear_only() -> None:
    lost = intent("open")
    (row,) = rows(intents=[lost], reported=report(lost), task="failed")
    assert row.state is State.NEEDS_YOU
    assert "free of charge" in (row.advice or "")


@pytest.mark.parametrize("outcome", ["no_job", "refused"])
def test_a_refused_call_is_not_charged_and_shown_until_the_next_one(outcome: str) -> None:
    refused = intent(outcome)
    (row,) = rows(intents=[refused], task="failed")
    totals = Totals()
    totals.add(row)
    assert row.state is State.NOT_CHARGED
    assert (totals.credits, totals.at_stake) == (0, 0)
    next_one = intent("job")
    assert [row.state for row in rows(job(ended=ended()), intents=[refused, next_one])] == [State.COMPLETE]


def test_a_call_that_was_paid_again_stays_visible_as_perhaps_charged() -> None:
    states = [row.state for row in rows(job(ended=ended()), intents=[intent("paid_again"), intent("job")])]
    assert states == [State.COMPLETE, State.LOST]


@pytest.mark.parametrize("outcome", ["refused", "paid_again"])
def test_a_job_that_reports_itself_too_late_is_a_second_paid_job(outcome: str) -> None:
    lost, kept = intent(outcome), job(ended=ended())
    _, second = rows(kept, intents=[lost, intent("job")], reported=report(lost, "cm-second"))
    assert (second.state, second.job_id) == (State.NEEDS_YOU, "cm-second")
    # The report of the job that was adopted is no second one.
    assert len(rows(kept, intents=[lost], reported=report(lost, kept["job_id"]))) == 1


@pytest.mark.parametrize(
    ("task", "state"), [("failed", State.NEEDS_YOU), ("running", State.COMPLETE), ("success", State.COMPLETE)]
)
def test_a_made_job_that_was_not_delivered_needs_a_person_once_its_task_stopped(
    task: str, state: State
) -> None:
    paid = intent("job", output_path="s3://bucket/")
    (row,) = rows(job(short_id=paid["short_id"], ended=ended()), intents=[paid], task=task)
    assert row.state is state
    assert row.is_made


def test_a_made_job_that_nobody_wanted_delivered_needs_nobody() -> None:
    (row,) = rows(job(ended=ended()), intents=[intent("job")], task="failed")
    assert row.state is State.COMPLETE


def test_a_job_is_numbered_by_its_place_in_the_journal() -> None:
    found = rows(job("cm1", ended=ended("error")), job("cm2", ended=ended()))
    assert [(row.number, row.job_id) for row in found] == [(0, "cm1"), (1, "cm2")]


def test_the_vendors_error_is_one_line() -> None:
    (row,) = rows(job(ended=ended("error", error_code="no_source_face", error_message="No face.")))
    assert row.error == "no_source_face: No face."


@pytest.mark.parametrize(
    "journal",
    [
        None,
        [],
        "a reference",
        {},
        {"jobs": None, "intents": 3},
        {"jobs": [1, None, "x"], "intents": [[]]},
    ],
)
def test_a_journal_that_cannot_be_read_has_no_rows(journal: object) -> None:
    assert journal_rows(TASK, journal, journal, NOW) == []


def test_values_of_other_types_break_nothing() -> None:
    odd = {
        "job_id": 7,
        "job_type": "hologram",
        "submitted_at": "yesterday",
        "credits_charged": math.inf,
        "ended": {
            "status": "complete",
            "width": "480",
            "height": -1,
            "size_bytes": True,
            "duration_seconds": "4",
        },
    }
    (row,) = rows(odd)
    assert (row.job_id, row.job_type, row.at, row.credits) == (None, "video", NOW, None)
    assert (row.width, row.height, row.size_bytes, row.seconds) == (None, None, None, None)


def test_a_sensors_result_completes_the_job_that_another_task_submitted() -> None:
    (row,) = rows(job("cm1"))
    sensor = TASK._replace(task_id="wait")
    result = result_row(
        sensor,
        {"job_id": "cm1", "status": "complete", "credits_charged": 200, "output_path": "s3://a.mp4"},
        NOW,
    )
    assert result
    done = with_end_of(row, result)
    assert (done.state, done.credits, done.output_path) == (State.COMPLETE, 200, "s3://a.mp4")
    assert (done.task, done.conn_id) == (TASK, "magichour_default")


@pytest.mark.parametrize("result", [None, 3, {}, {"job_id": None}, {"job_id": 3}])
def test_a_result_that_names_no_job_has_no_row(result: object) -> None:
    assert result_row(TASK, result, NOW) is None


def test_every_type_of_job_has_a_preview() -> None:
    assert PREVIEWS.keys() == JOBS.keys()
