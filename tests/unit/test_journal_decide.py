"""Whether to pay: every cell of the table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.api.models import Job
from magichour_provider.api.watching import JUST_CREATED
from magichour_provider.task.record import KEPT, Intent, PaidJob, Record, Report, decide

HOST = "https://api.magichour.ai"
THIS, OTHER = (
    {"image_file_path": "aaa", "end_seconds": "111"},
    {"image_file_path": "bbb", "end_seconds": "111"},
)
NOW = 1_800_000_000.0
# Airflow raises it when a person clears a finished task.
RETRIES, AFTER_CLEAR = 3, 7
SUBMIT = None


def paid(job_id: str = "job-1", *, age: float = 3600, **more: Any) -> PaidJob:
    known = {
        "job_id": job_id,
        "submitted_at": datetime.fromtimestamp(NOW - age, UTC),
        "host": HOST,
        "inputs": THIS,
        "max_tries": RETRIES,
    }
    return PaidJob.model_validate(known | more)


def said(status: str, *, code: str | None = None, enabled: bool = True) -> Job:
    error = {"code": code} if code else None
    return Job.model_validate({"id": "job-1", "status": status, "enabled": enabled, "error": error})


def decided(
    record: Record, vendor: Job | errors.RequestFailed | None, *, max_tries: int = RETRIES, host: str = HOST
) -> PaidJob | None:
    return decide(record, THIS, host=host, max_tries=max_tries, answer=vendor, now=NOW)


NOTHING = Record()
OPEN = Intent(short_id="1a2b3c4d", try_number=1, at=datetime(2026, 11, 1, 12, 30, tzinfo=UTC))
SAME = Record(jobs=(paid(),))
YOUNG = Record(jobs=(paid(age=JUST_CREATED - 1),))
OTHER_ONLY = Record(jobs=(paid(inputs=OTHER),))
# Written by a person: only the id is known, or the id and what a try has then added.
ADOPTED = Record.of({"job_id": "job-1"})
ADOPTED_OVER_INTENT = Record.of({"job_id": "job-1", "intent": None})

TAKE_UP = "job-1"
ACTIVE = [said(status) for status in ("draft", "queued", "rendering", "complete", "a_status_of_next_year")]
UNASKED = [
    errors.Unavailable("x"),
    errors.Unavailable("x", status_code=500),
    errors.RateLimited("x", status_code=429),
    errors.Unauthorized("x", status_code=401),
    errors.Forbidden("x", status_code=403),
    errors.InvalidRequest("x", status_code=400),
]
GONE = errors.NotFound("x", status_code=404, by_vendor=True)
MISROUTED = errors.NotFound("a gateway's page", status_code=404)
TRANSIENT = [said("error", code=code) for code in ("unknown_error", "processing_timeout", "new_code", None)]
PERMANENT = [said("error", code=code) for code in ("no_source_face", "content_policy_violation")]

# recorded, what the vendor says, on an automatic retry, after a person has cleared the task
TABLE: list[Any] = [
    (NOTHING, None, SUBMIT, SUBMIT),
    (Record(intents=(OPEN,)), None, errors.SubmissionUncertain, errors.SubmissionUncertain),
    (Record(intents=(OPEN,), jobs=SAME.jobs), said("complete"), *[errors.SubmissionUncertain] * 2),
    *((SAME, vendor, TAKE_UP, TAKE_UP) for vendor in ACTIVE),
    *((SAME, vendor, SUBMIT, SUBMIT) for vendor in TRANSIENT),
    *((SAME, vendor, errors.JobFailed, SUBMIT) for vendor in PERMANENT),
    (SAME, said("canceled"), errors.JobCanceled, SUBMIT),
    (SAME, said("complete", enabled=False), errors.JobDeleted, errors.JobDeleted),
    (SAME, said("error", code="unknown_error", enabled=False), SUBMIT, SUBMIT),  # refunded, then deleted
    (Record(jobs=(SAME.jobs[0].model_copy(update={"watched": True}),)), None, SUBMIT, SUBMIT),
    (SAME, GONE, errors.JobDeleted, errors.JobDeleted),
    (SAME, MISROUTED, TAKE_UP, TAKE_UP),  # a 404 that is not the vendor's says nothing about the job
    (YOUNG, GONE, TAKE_UP, TAKE_UP),  # the API may not know yet what it has just made
    *((SAME, vendor, TAKE_UP, TAKE_UP) for vendor in UNASKED),
    *(
        (Record(intents=(OPEN.model_copy(update={"outcome": outcome}),)), None, SUBMIT, SUBMIT)
        for outcome in ("no_job", "refused", "paid_again")
    ),
    (OTHER_ONLY, None, errors.JobMismatch, SUBMIT),
    *((ADOPTED, vendor, TAKE_UP, TAKE_UP) for vendor in (*ACTIVE, *UNASKED)),
    (ADOPTED, GONE, errors.JobDeleted, errors.JobDeleted),
    (ADOPTED, TRANSIENT[0], SUBMIT, SUBMIT),
    (ADOPTED, PERMANENT[0], errors.JobFailed, errors.JobFailed),  # nobody knows when it was adopted
    (ADOPTED_OVER_INTENT, said("complete"), TAKE_UP, TAKE_UP),
]


@pytest.mark.parametrize("cleared", [False, True], ids=["retry", "cleared"])
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_the_next_try(row: tuple[Record, Any, Any, Any], cleared: bool) -> None:
    record, vendor, on_retry, after_clear = row
    expected = after_clear if cleared else on_retry
    max_tries = AFTER_CLEAR if cleared else RETRIES
    if isinstance(expected, type):
        with pytest.raises(expected):
            decided(record, vendor, max_tries=max_tries)
        return
    job = decided(record, vendor, max_tries=max_tries)
    assert (job.job_id if job else SUBMIT) == expected


# --- several jobs ---


def test_of_several_jobs_for_the_same_input_the_newest_counts() -> None:
    record = Record(jobs=(paid("job-1"), paid("job-2")))
    job = decided(record, said("rendering"))
    assert job is not None
    assert job.job_id == "job-2"


def test_an_input_that_was_paid_for_before_another_is_still_paid_for() -> None:
    record = Record(jobs=(paid("job-1"), paid("job-2", inputs=OTHER)))
    job = decided(record, said("complete"))
    assert job is not None
    assert job.job_id == "job-1"


def test_clearing_once_does_not_pay_for_the_other_input_twice() -> None:
    paid_after_clear = Record(jobs=(paid(inputs=OTHER, max_tries=AFTER_CLEAR),))
    with pytest.raises(errors.JobMismatch):
        decided(paid_after_clear, None, max_tries=AFTER_CLEAR)


def test_of_several_jobs_for_other_inputs_the_newest_counts() -> None:
    paid_twice = Record(
        jobs=(paid("job-1", inputs=OTHER), paid("job-2", inputs=OTHER, max_tries=AFTER_CLEAR))
    )
    with pytest.raises(errors.JobMismatch, match="job-2"):
        decided(paid_twice, None, max_tries=AFTER_CLEAR)


# --- another host ---


@pytest.mark.parametrize("max_tries", [RETRIES, AFTER_CLEAR])
@pytest.mark.parametrize("vendor", [said("complete"), GONE, UNASKED[0]])
def test_a_job_on_another_host_stops_the_task_with_both_names(
    vendor: Job | errors.RequestFailed, max_tries: int
) -> None:
    with pytest.raises(errors.JobMismatch, match=rf"job-1 on {HOST}.*now names http://127\.0\.0\.1:1"):
        decided(SAME, vendor, max_tries=max_tries, host="http://127.0.0.1:1")


# --- the words ---


def test_an_open_intent_says_how_to_find_the_job() -> None:
    with pytest.raises(errors.SubmissionUncertain) as uncertain:
        decided(Record(intents=(OPEN,)), None)
    ways = ("try 1", "[mh-1a2b3c4d]", "2026-11-01 12:30:00 UTC", "may have been made and charged", "its log")
    for words in ways:
        assert words in str(uncertain.value)
    assert (uncertain.value.charged, uncertain.value.retryable) == ("unknown", False)


def test_a_changed_input_names_the_job_and_the_fields() -> None:
    before = {"image_file_path": "bbb", "end_seconds": "111", "prompt": "ccc"}
    with pytest.raises(errors.JobMismatch, match=r"job-1 .*: image_file_path, prompt changed") as mismatch:
        decided(Record(jobs=(paid(inputs=before),)), None)
    assert (mismatch.value.job_id, mismatch.value.charged) == ("job-1", "yes")


@pytest.mark.parametrize(
    ("vendor", "words"),
    [(said("complete", enabled=False), "was deleted"), (GONE, "another account")],
)
def test_a_job_that_is_gone_says_how_it_can_have_gone(vendor: Job | errors.RequestFailed, words: str) -> None:
    with pytest.raises(errors.JobDeleted, match=rf"job-1.*{words}") as deleted:
        decided(SAME, vendor)
    assert (deleted.value.job_id, deleted.value.charged) == ("job-1", "yes")


@pytest.mark.parametrize(
    ("ended", "is_refunded"),
    [(None, False), ("complete", False), ("deleted", False), ("error", True), ("canceled", True)],
)
def test_a_job_is_refunded_when_it_failed_or_was_canceled(ended: str | None, is_refunded: bool) -> None:
    job = paid(ended=ended and {"status": ended, "at": datetime.fromtimestamp(NOW, UTC)})
    assert job.is_refunded is is_refunded


@pytest.mark.parametrize(
    ("age", "is_lately"),
    [(-1, True), (0, True), (599.5, True), (600, False), (3600, False)],  # -1: the vendor's clock is ahead
)
def test_a_job_may_be_unknown_to_the_api_for_ten_minutes(age: float, is_lately: bool) -> None:
    assert paid(age=age).recent_submission_time(NOW) == (NOW - age if is_lately else None)


def test_a_job_that_a_person_has_written_was_not_submitted_lately() -> None:
    assert ADOPTED.jobs[0].recent_submission_time(NOW) is None


def test_a_dag_that_now_has_fewer_retries_was_not_cleared() -> None:
    with pytest.raises(errors.JobMismatch):
        decided(OTHER_ONLY, None, max_tries=RETRIES - 1)


def test_two_reports_say_the_same_if_they_name_one_job_or_both_pay_again() -> None:
    first, second = Report(job_id="job-1"), Report(job_id="job-2")
    pays = Report(pay_again=True)
    assert first.says_the_same_as(Report(job_id="job-1", source="webhook", conn_id="mh"))
    assert pays.says_the_same_as(Report(pay_again=True, source="a person"))
    for one, other in [(first, second), (second, first), (first, pays), (pays, first)]:
        assert not one.says_the_same_as(other)


def reread(record: Record) -> Record:
    """As the next try reads it."""
    return Record.of(record.model_dump_json())


def test_a_job_or_an_intent_that_is_written_again_replaces_itself() -> None:
    record = reread(Record(intents=(OPEN,), jobs=(paid("job-1"), paid("job-2"))))
    again = record.with_job(paid("job-1", output_path="/out/"))
    assert [job.job_id for job in again.jobs] == ["job-2", "job-1"]
    settled = record.with_outcome("1a2b3c4d", "job", "job-1")
    assert [(intent.outcome, intent.job_id) for intent in settled.intents] == [("job", "job-1")]


@pytest.mark.parametrize("job_id", ["job-0", "job-11", "job-3"])
def test_a_job_is_found_by_its_own_id_only(job_id: str) -> None:
    record = reread(Record(jobs=(paid("job-1"), paid("job-2"))))
    assert record.job(job_id) is None
    assert record.job("job-2") == record.jobs[1]


@pytest.mark.parametrize("job_id", ["job-1", "job-2", "job-3"])
def test_an_adopted_intent_changes_only_for_another_job(job_id: str) -> None:
    record = reread(Record(intents=(OPEN,)).with_outcome("1a2b3c4d", "adopted", "job-2"))
    (intent,) = record.with_outcome("1a2b3c4d", "job", job_id).intents
    assert (intent.outcome, intent.job_id) == (("adopted", "job-2") if job_id == "job-2" else ("job", job_id))


@pytest.mark.parametrize("host", ["https://zz.example", "http://aa.example"])
def test_a_job_of_another_host_is_not_resumed(host: str) -> None:
    with pytest.raises(errors.JobMismatch, match=host):
        decided(SAME, said("complete"), host=host)


@pytest.mark.parametrize("conn_id", ["aa", "zz"])
def test_a_report_of_another_connection_is_not_believed(conn_id: str) -> None:
    mine = OPEN.model_copy(update={"conn_id": "mh"})
    job = Job.model_validate({"id": "job-1", "status": "queued", "name": f"me {OPEN.mark}"})
    (same, other) = Report.all_of(
        json.loads(json.dumps({"x": [{"job_id": "job-1", "conn_id": one} for one in ("mh", conn_id)]})), "x"
    )
    assert same.why_not(mine, job) is None
    assert "was reported for the connection" in str(other.why_not(mine, job))


def test_the_same_host_is_the_same_also_when_it_was_read_from_json() -> None:
    assert decided(reread(SAME), said("complete")) == SAME.jobs[0]


def test_a_webhooks_report_without_a_name_is_believed_also_when_it_was_read_from_json() -> None:
    reported = json.loads('{"1a2b3c4d": [{"job_id": "job-1", "source": "webhook"}]}')
    (report,) = Report.all_of(reported, OPEN.short_id)
    assert report.why_not(OPEN, said("queued")) is None


@pytest.mark.parametrize("outcome", ["job", "no_job", "refused", "paid_again", "adopted"])
def test_of_calls_that_are_settled_the_latest_are_kept_whatever_became_of_them(outcome: str) -> None:
    record = Record(intents=(OPEN,))
    for number in range(2 * KEPT):
        at = OPEN.at + timedelta(minutes=number + 1)
        settled = OPEN.model_copy(update={"short_id": f"{number:08x}", "at": at, "outcome": outcome})
        record = record.with_intent(settled)
    assert record.lost == OPEN, "what is open is never forgotten"
    assert [intent.short_id for intent in record.intents[1:]] == [
        f"{number:08x}" for number in range(KEPT, 2 * KEPT)
    ]
