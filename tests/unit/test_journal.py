"""The record of what a task instance has paid for: written before, read back, never guessed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity

from magichour_provider import exceptions as errors
from magichour_provider.api.models import Job
from magichour_provider.task import record as room
from magichour_provider.task.journal import Journal
from magichour_provider.task.record import Ending, Intent, PaidJob, Record, Report

JOB = PaidJob(
    job_id="job-1", credits_charged=48, host="https://api.magichour.ai", inputs={"a": "1"}, max_tries=3
)
AWAY = ConnectionError("store is away")


class Shelf:
    """A store that keeps what JSON keeps, and breaks on demand."""

    def __init__(self, written: object = None, reported: object = None) -> None:
        self.written = written
        self.reported = reported
        self.fails: list[Exception] = []
        self.sets = 0

    def get(self) -> object:
        if self.fails:
            raise self.fails.pop(0)
        return self.written

    def get_reported(self) -> object:
        if self.fails:
            raise self.fails.pop(0)
        return self.reported

    def set(self, value: dict[str, Any]) -> None:
        self.sets += 1
        if self.fails:
            raise self.fails.pop(0)
        self.written = json.loads(json.dumps(value))

    def adopt_command(self, short_id: str, job_id: str, *, anyway: bool = False) -> str:
        return f"ADOPT {short_id} {job_id}"

    def pay_again_command(self, short_id: str | None) -> str:
        return f"PAY AGAIN {short_id}"


def opened(shelf: Shelf, try_number: int = 1, max_tries: int = 3) -> Journal:
    return Journal(shelf, try_number=try_number, max_tries=max_tries)


@pytest.fixture
def no_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails is not repeated."""
    monkeypatch.setattr("magichour_provider.task.journal.OUTCOME_WRITE_TIMEOUT", 0)
    monkeypatch.setattr("magichour_provider.task.journal.WRITE_TIMEOUT", 0)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in ("wait_exponential", "wait_random"):
        monkeypatch.setattr(tenacity, wait, lambda *_, **__: tenacity.wait_none())


def test_nothing_written_is_nothing_paid() -> None:
    assert opened(Shelf()).record == Record()


def test_an_intent_is_there_for_the_next_try_before_the_call_is_sent() -> None:
    shelf = Shelf()
    asked = {
        "inputs": {"a": "1"},
        "host": "https://api.magichour.ai",
        "conn_id": "mh",
        "job_type": "audio",
        "output_path": "s3://b/",
        "estimated_credits": 48.0,
    }
    intent = opened(shelf, try_number=2).record_intent(name="dag.task", **asked)
    lost = opened(shelf, try_number=3).record.lost
    assert lost is not None
    assert lost.model_dump(include=set(asked)) == asked
    assert (lost.short_id, lost.try_number, lost.max_tries) == (intent.short_id, 2, 3)
    assert lost.name == f"dag.task [mh-{intent.short_id}]"
    assert len(intent.short_id) == 8


def test_each_intent_has_an_id_of_its_own() -> None:
    ids = {opened(Shelf()).record_intent(name="n").short_id for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.usefixtures("no_repeats")
def test_an_intent_that_cannot_be_written_stops_the_task() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [AWAY]
    with pytest.raises(errors.JournalUnavailable, match=r"store is away.*nothing was submitted") as stopped:
        journal.record_intent(name="n")
    assert (stopped.value.retryable, stopped.value.charged) == (True, "no")
    assert shelf.written is None


@pytest.mark.parametrize("reads", ["the record", "the reports"])
def test_a_store_that_cannot_be_read_is_not_an_empty_one(reads: str) -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [AWAY]
    with pytest.raises(errors.JournalUnavailable, match=r"store is away.*this try has submitted") as stopped:
        opened(shelf) if reads == "the record" else journal.reports(INTENT)
    assert (stopped.value.retryable, stopped.value.charged) == (True, "no")


@pytest.mark.parametrize("outcome", ["no_job", "refused"])
def test_the_answer_that_no_job_was_made_stays_in_the_record_and_nothing_is_lost(outcome: Any) -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.settle(journal.record_intent(name="n"), outcome)
    record = opened(shelf).record
    assert record.lost is None
    assert [intent.outcome for intent in record.intents] == [outcome]


def test_a_paid_job_settles_its_intent_and_leaves_the_earlier_jobs() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.record_job(JOB)
    intent = journal.record_intent(name="n")
    assert opened(shelf).record.lost == intent
    job = JOB.model_copy(update={"job_id": "job-2", "short_id": intent.short_id})
    assert journal.record_job(job)
    later = opened(shelf)
    assert later.record.lost is None
    assert later.record.jobs == (JOB, job)
    assert [(known.outcome, known.job_id) for known in later.record.intents] == [("job", "job-2")]


def test_an_adopted_job_that_is_resumed_stays_adopted_in_the_record() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    intent = journal.record_intent(name="n")
    job = JOB.model_copy(update={"short_id": intent.short_id})
    journal.record_job(job, outcome="adopted")
    opened(shelf).record_job(job)
    assert [known.outcome for known in opened(shelf).record.intents] == ["adopted"]


def test_a_paid_job_is_recorded_however_long_the_store_is_away() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [AWAY] * 20
    assert journal.record_job(JOB)
    assert opened(shelf).record.jobs == (JOB,)


@pytest.mark.usefixtures("no_repeats")
def test_a_paid_job_that_cannot_be_recorded_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [AWAY]
    assert not journal.record_job(JOB)
    assert journal.record.jobs == ()
    assert "job-1" in caplog.text
    assert "store is away" in caplog.text


class Gone(Exception):
    """As Airflow's, when a task instance was cleared while it ran."""

    error = SimpleNamespace(detail={"status_code": 404})


def test_a_task_that_was_cleared_while_it_ran_does_not_go_on_writing() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [Gone("not found")] * 20
    assert not journal.record_job(JOB)
    assert shelf.sets == 1


def test_old_jobs_and_settled_intents_make_room_for_new_ones_and_a_lost_one_stays() -> None:
    shelf = Shelf()
    lost = opened(shelf).record_intent(name="n")
    for number in range(room.KEPT + 2):
        journal = opened(shelf)
        intent = journal.record_intent(name="n")
        journal.record_job(PaidJob(job_id=f"job-{number}", short_id=intent.short_id))
    record = opened(shelf).record
    kept = [job.job_id for job in record.jobs]
    assert (kept[0], kept[-1], len(kept)) == ("job-2", f"job-{room.KEPT + 1}", room.KEPT)
    assert record.lost == lost
    assert len(record.intents) == room.KEPT + 1


def test_where_a_file_is_being_written_is_known_to_the_next_try() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.record_job(JOB)
    journal.record_delivery(JOB, "/out/me.mp4")
    later = opened(shelf)
    assert later.is_own_delivery("job-1", "/out/me.mp4")
    assert not later.is_own_delivery("job-1", "/out/you.mp4")
    assert not later.is_own_delivery("job-2", "/out/me.mp4")
    assert later.record.jobs[0].inputs == JOB.inputs


def test_only_the_write_of_a_new_job_is_worth_a_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magichour_provider.task.journal.WRITE_TIMEOUT", 0)
    shelf = Shelf()
    journal = opened(shelf)
    shelf.fails = [AWAY]
    assert journal.record_job(JOB)
    shelf.fails = [AWAY]
    assert not journal.record_job(JOB)
    shelf.fails = [AWAY]
    assert not journal.record_job(PaidJob(job_id="job-2"), outcome="adopted")


@pytest.mark.usefixtures("no_repeats")
def test_a_file_is_not_written_to_where_the_next_try_would_not_know_it() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.record_job(JOB)
    shelf.fails = [AWAY]
    with pytest.raises(errors.JournalUnavailable, match=r"job-1.*store is away") as unwritten:
        journal.record_delivery(JOB, "/out/me.mp4")
    assert (unwritten.value.retryable, unwritten.value.charged) == (True, "yes")


def test_where_a_sensor_writes_a_file_is_known_to_its_next_try() -> None:
    shelf = Shelf()
    opened(shelf).record_delivery(PaidJob(job_id="job-9", watched=True), "/out/me.mp4")
    later = opened(shelf)
    assert later.is_own_delivery("job-9", "/out/me.mp4")


def test_how_a_job_ended_is_in_the_record() -> None:
    shelf = Shelf()
    journal = opened(shelf)
    journal.record_job(JOB)
    ending = Ending(status="complete", at=INTENT.at, credits_charged=48, size_bytes=293_000)
    journal.record_end(JOB, ending)
    assert opened(shelf).record.jobs == (JOB.model_copy(update={"ended": ending}),)


# --- what others report ---

INTENT = Intent(short_id="1a2b3c4d", try_number=1, at=datetime(2026, 11, 1, 12, 30, tzinfo=UTC), conn_id="mh")
SAID = {"job_id": "job-1"}


@pytest.mark.parametrize(
    ("reported", "job_ids"),
    [
        (None, []),
        ({}, []),
        ({"1a2b3c4d": [SAID]}, ["job-1"]),
        ({"1a2b3c4d": "job-1"}, ["job-1"]),
        ({"1a2b3c4d": SAID}, ["job-1"]),
        ({"1a2b3c4d": [7, None, {"job_id": []}, SAID, {"job_id": "job-2"}]}, ["job-1", "job-2"]),
        ({"99999999": [SAID]}, []),
        ("nonsense", []),
    ],
    ids=repr,
)
def test_a_report_counts_for_its_own_intent_and_an_unreadable_one_hides_none(
    reported: object, job_ids: list[str]
) -> None:
    reports = opened(Shelf(reported=reported)).reports(INTENT)
    assert [report.job_id for report in reports] == job_ids


def job(name: str | None = "me [mh-1a2b3c4d]", created_at: str | None = "2026-11-01T12:30:02Z") -> Job:
    return Job.model_validate({"id": "job-1", "status": "queued", "name": name, "created_at": created_at})


@pytest.mark.parametrize(
    ("report", "found", "words"),
    [
        ({}, job(), None),
        ({"conn_id": "mh"}, job(), None),
        ({}, job(created_at="2026-11-01T12:20:00+00:00"), None),  # clocks differ by minutes
        ({}, job(created_at="2026-11-01T12:19:59Z"), "before the paid call"),
        ({}, job(created_at=None), None),
        ({"conn_id": "other"}, job(), "connection other"),
        ({}, job(name="me"), "does not end in"),
        ({}, job(name="me [mh-1a2b3c4d] again"), "does not end in"),
        ({}, job(name=None), "does not end in"),
        ({"anyway": True}, job(name=None), None),
        ({}, job(created_at="2026-11-01T12:00:00Z"), "before the paid call"),
        ({"anyway": True}, job(created_at="2026-11-01T12:00:00Z"), "before the paid call"),
        ({}, job(created_at="2026-11-01T14:00:00+02:00"), "before the paid call"),
        ({}, job(created_at="2026-11-01T05:30:02"), None),  # nobody knows in which zone
        ({}, job(created_at="2026-11-01T13:30:00Z"), None),
        ({}, job(created_at="2026-11-01T13:30:01Z"), "long after the paid call"),
        ({"anyway": True}, job(created_at="2026-11-01T13:30:01Z"), None),
        ({}, job(name="other [mh-ffffffff]"), "does not end in"),
        ({"anyway": True}, job(name="other [mh-ffffffff]"), None),
        ({"source": "webhook"}, job(name=None), None),  # whose event was signed, and carried the name
        ({"source": "webhook"}, job(name="me"), "does not end in"),
    ],
)
def test_a_report_is_believed_only_of_the_job_that_the_intent_paid_for(
    report: dict[str, Any], found: Job, words: str | None
) -> None:
    why_not = Report.model_validate({"job_id": "job-1"} | report).why_not(INTENT, found)
    assert (why_not is None) if words is None else (why_not is not None and words in why_not)


def test_a_call_that_was_repeated_for_hours_can_have_made_its_job_hours_later() -> None:
    patient = INTENT.model_copy(update={"rate_limit_timeout": 7200.0})
    report = Report(job_id="job-1", source="webhook")
    assert report.why_not(patient, job(created_at="2026-11-01T15:30:00Z")) is None
    assert report.why_not(patient, job(created_at="2026-11-01T15:30:01Z")) is not None


@pytest.mark.parametrize(
    ("outcomes", "adoptable"),
    [
        (["open"], ["i0"]),
        (["refused"], ["i0"]),
        (["refused", "open"], ["i1", "i0"]),
        (["refused", "no_job"], ["i0"]),
        (["refused", "job"], []),
        (["job", "refused"], ["i1"]),
        (["paid_again"], ["i0"]),
        (["paid_again", "adopted"], []),
    ],
)
def test_the_job_of_an_intent_can_be_adopted_until_another_call_has_paid(
    outcomes: list[Any], adoptable: list[str]
) -> None:
    intents = tuple(
        INTENT.model_copy(update={"short_id": f"i{number}", "outcome": outcome})
        for number, outcome in enumerate(outcomes)
    )
    assert [intent.short_id for intent in Record(intents=intents).adoptable] == adoptable


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
        {"version": 2, "jobs": []},
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


def test_a_record_of_before_there_was_a_list_is_moved() -> None:
    intent = {"short_id": "1a2b3c4d", "try_number": 1, "at": "2026-11-01T12:30:00Z"}
    record = Record.of({"intent": intent, "jobs": [{"job_id": "job-1", "output_path": "/out/me.mp4"}]})
    assert record.lost == INTENT.model_copy(update={"conn_id": None})
    assert record.jobs == (PaidJob(job_id="job-1", output_path="/out/me.mp4"),)
    assert record.version == 1


# --- what people are told ---


def test_an_uncertain_submission_says_both_ways_on_and_loses_nothing() -> None:
    journal = opened(Shelf())
    intent = journal.record_intent(name="n")
    told = journal.with_instructions(errors.SubmissionUncertain("no answer", status_code=504, credits=48))
    ways = (f"ADOPT {intent.short_id} JOB_ID", f"PAY AGAIN {intent.short_id}")
    for words in ("no answer", "my-library", intent.mark, *ways, "clear the task", "Task State Store"):
        assert words in str(told)
    assert (type(told), told.status_code, told.charged, told.retryable, told.credits) == (
        errors.SubmissionUncertain,
        504,
        "unknown",
        False,
        48,
    )


@pytest.mark.parametrize("kind", [errors.JobDeleted, errors.JobMismatch])
def test_a_job_that_cannot_be_resumed_says_how_to_pay_again(kind: type[errors.MagicHourError]) -> None:
    told = opened(Shelf()).with_instructions(kind("gone", job_id="job-1"))
    assert "PAY AGAIN None" in str(told)
    assert "ADOPT" not in str(told)
    assert (type(told), told.job_id, told.charged) == (kind, "job-1", "yes")
