"""The record of what a task instance has paid for: written before, read back, never guessed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.task import journal as room
from magichour_provider.task.journal import Journal, PaidJob, Record

JOB = PaidJob(
    job_id="job-1", credits_charged=48, host="https://api.magichour.ai", inputs={"a": "1"}, max_tries=3
)


class Shelf:
    """A store that keeps what JSON keeps, and breaks on demand."""

    def __init__(self, written: object = None) -> None:
        self.written = written
        self.fails: list[Exception] = []
        self.sets = 0

    def get(self) -> object:
        if self.fails:
            raise self.fails.pop(0)
        return self.written

    def set(self, value: dict[str, Any]) -> None:
        self.sets += 1
        if self.fails:
            raise self.fails.pop(0)
        self.written = json.loads(json.dumps(value))

    def adopt_command(self) -> str:
        return "ADOPT"

    def forget_command(self) -> str:
        return "FORGET"


def opened(shelf: Shelf, try_number: int = 1, max_tries: int = 3) -> Journal:
    return Journal(shelf, try_number=try_number, max_tries=max_tries)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.tenacity, "wait_exponential", lambda *_: room.tenacity.wait_none())


def test_nothing_written_is_nothing_paid() -> None:
    assert opened(Shelf()).record == Record()


def test_an_intent_is_there_for_the_next_try_before_the_call_is_sent() -> None:
    shelf = Shelf()
    short_id = opened(shelf, try_number=2).intend()
    intent = opened(shelf, try_number=3).record.intent
    assert intent is not None
    assert (intent.short_id, intent.try_number) == (short_id, 2)
    assert len(short_id) == 8


def test_each_intent_has_an_id_of_its_own() -> None:
    assert opened(Shelf()).intend() != opened(Shelf()).intend()


def test_an_intent_that_cannot_be_written_stops_the_task() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [ConnectionError("store is away")]
    with pytest.raises(errors.JournalUnavailable, match=r"store is away.*nothing was submitted") as stopped:
        journal.intend()
    assert (stopped.value.retryable, stopped.value.charged) == (True, "no")
    assert shelf.written is None


def test_a_store_that_cannot_be_read_is_not_an_empty_one() -> None:
    shelf = Shelf()
    shelf.fails = [ConnectionError("store is away")]
    with pytest.raises(errors.JournalUnavailable, match=r"store is away.*nothing was submitted") as stopped:
        opened(shelf)
    assert (stopped.value.retryable, stopped.value.charged) == (True, "no")


def test_the_answer_that_no_job_was_made_takes_the_intent_back() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.intend()
    journal.no_job_made()
    assert opened(shelf).record == Record()


def test_the_jobs_of_earlier_tries_stay_when_an_intent_comes_and_goes() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.paid(JOB)
    journal.intend()
    assert opened(shelf).record.jobs == (JOB,)
    journal.no_job_made()
    assert opened(shelf).record == Record(jobs=(JOB,))


def test_a_paid_job_takes_the_place_of_its_intent() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.intend()
    journal.paid(JOB)
    assert opened(shelf).record == Record(jobs=(JOB,))
    assert opened(shelf).knows("job-1")


def test_a_job_under_an_open_intent_is_not_yet_known() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.paid(JOB)
    journal.intend()
    assert not opened(shelf).knows("job-1")


def test_what_is_written_already_is_not_written_again() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.paid(JOB)
    journal.paid(JOB)
    assert shelf.sets == 1


def test_a_paid_job_is_not_lost_for_a_store_that_hiccups() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [ConnectionError(), ConnectionError()]
    journal.paid(JOB)
    assert opened(shelf).record.jobs == (JOB,)


def test_a_paid_job_that_cannot_be_written_down_is_logged_and_the_task_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [ConnectionError("store is away")] * 9
    journal.paid(JOB)
    assert journal.knows("job-1")
    assert "job-1" in caplog.text
    assert "store is away" in caplog.text


def test_old_jobs_make_room_for_new_ones() -> None:
    shelf = Shelf()
    for number in range(room.KEPT_JOBS + 2):
        opened(shelf).paid(PaidJob(job_id=f"job-{number}"))
    kept = [job.job_id for job in opened(shelf).record.jobs]
    assert (kept[0], kept[-1], len(kept)) == ("job-2", "job-11", room.KEPT_JOBS)


def test_where_a_video_is_being_brought_is_known_to_the_next_try() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.paid(JOB)
    journal.delivering("job-1", "/out/me.mp4")
    later = opened(shelf)
    assert later.is_delivering("job-1", "/out/me.mp4")
    assert not later.is_delivering("job-1", "/out/you.mp4")
    assert not later.is_delivering("job-2", "/out/me.mp4")
    assert later.record.jobs[0].inputs == JOB.inputs


def test_a_video_is_not_brought_to_where_the_next_try_would_not_know_it() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.paid(JOB)
    shelf.fails = [ConnectionError("store is away")] * 9
    with pytest.raises(errors.JournalUnavailable, match=r"job-1.*store is away") as unwritten:
        journal.delivering("job-1", "/out/me.mp4")
    assert (unwritten.value.retryable, unwritten.value.charged) == (True, "yes")

    shelf.fails = [ConnectionError(), ConnectionError()]
    journal.delivering("job-1", "/out/me.mp4")
    assert opened(shelf).is_delivering("job-1", "/out/me.mp4")


def test_a_sensor_may_bring_a_video_that_it_has_not_paid_for() -> None:
    shelf = Shelf()
    opened(shelf).delivering("job-9", "/out/me.mp4")
    assert opened(shelf).is_delivering("job-9", "/out/me.mp4")


# --- what people write ---


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    "written",
    [{"job_id": "job-1"}, {"job_id": "job-1", "note": "found by Ann"}, {"jobs": [{"job_id": "job-1"}]}],
)
def test_an_adopted_job_needs_no_more_than_its_id(written: dict[str, Any], as_text: bool) -> None:
    record = opened(Shelf(json.dumps(written) if as_text else written)).record
    assert record == Record(jobs=(PaidJob(job_id="job-1"),))
    found = record.job_for({"any": "input"})
    assert found is not None
    assert found.job_id == "job-1"


@pytest.mark.parametrize(
    "written",
    [
        "job-1",
        "",
        "[]",
        "{",
        7,
        ["job-1"],
        {},
        {"job_id": ""},
        {"job_id": None},
        {"job_id": 7},
        {"JOB_ID": "job-1"},
        {"jobs": "job-1"},
        {"jobs": [{"id": "job-1"}]},
        {"intent": "open"},
    ],
    ids=repr,
)
def test_what_cannot_be_read_is_not_taken_for_nothing(written: object) -> None:
    with pytest.raises(
        errors.JournalUnavailable, match=r'write \{"job_id": "…"\}.*or delete the key'
    ) as stopped:
        opened(Shelf(written))
    assert not stopped.value.retryable


def test_a_record_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    newer = {"jobs": [{"job_id": "job-1", "new": 1}], "intent": None, "new": {"x": 1}}
    assert opened(Shelf(newer)).record == Record(jobs=(PaidJob(job_id="job-1"),))


# --- what people are told ---


def test_an_uncertain_submission_says_both_ways_on() -> None:
    uncertain = errors.SubmissionUncertain("no answer", status_code=504)
    told = opened(Shelf()).ways_on(uncertain)
    for words in ("no answer", "my-library", "ADOPT", "FORGET", "clear the task"):
        assert words in str(told)
    assert (type(told), told.status_code, told.charged, told.retryable) == (
        errors.SubmissionUncertain,
        504,
        "unknown",
        False,
    )


@pytest.mark.parametrize("kind", [errors.JobDeleted, errors.JobMismatch])
def test_a_job_that_cannot_be_taken_up_says_how_to_pay_anew(kind: type[errors.MagicHourError]) -> None:
    told = opened(Shelf()).ways_on(kind("gone", job_id="job-1"))
    assert "FORGET" in str(told)
    assert "ADOPT" not in str(told)
    assert (type(told), told.job_id, told.charged) == (kind, "job-1", "yes")
