"""Whether a wait is over, for all who wait: driven by hand, without clock or sockets."""

from __future__ import annotations

from typing import Any

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.api import models
from magichour_provider.api.watching import JobWatcher, Listener

START = 1_000_000.0
DEADLINE = START + 3600


def job(status: str = "rendering", **more: Any) -> models.Job:
    downloads = [{"url": "https://storage.example/a.mp4"}] if status == "complete" else []
    return models.Job.model_validate({"id": "job-1", "status": status, "downloads": downloads, **more})


NO_URL = job("complete", downloads=[])


def failed(status: int | None = 500, *, by_vendor: bool = True, **more: Any) -> errors.RequestFailed:
    error_cls = {401: errors.Unauthorized, 404: errors.NotFound, 429: errors.RateLimited}.get(
        status or 0, errors.Unavailable
    )
    return error_cls(f"it went wrong with {status}", status_code=status, by_vendor=by_vendor, **more)


class Notes(Listener):
    def __init__(self) -> None:
        self.changes: list[str] = []
        self.warnings: list[int | None] = []

    def on_change(self, seen: models.Job) -> None:
        self.changes.append(seen.status)

    def on_failed_poll(self, why: errors.RequestFailed) -> None:
        self.warnings.append(why.status_code)


def watch(*seen: models.Job | errors.RequestFailed, every: float = 20, **how: Any) -> models.Job | None:
    """What a wait with these polls ends with; None if it goes on."""
    watcher = JobWatcher("job-1", deadline=DEADLINE, **how)
    for number, one in enumerate(seen):
        if (ended := watcher.record_poll(one, START + number * every)) is not None:
            return ended
    return None


@pytest.mark.parametrize(
    "end", [job("complete"), job("error"), job("canceled"), job("rendering", enabled=False)], ids=str
)
def test_a_wait_ends_with_the_job_well_or_not(end: models.Job) -> None:
    assert watch(job("queued"), job(), end) is end


@pytest.mark.parametrize("status", ["queued", "rendering", "upscaling"])
def test_a_job_that_has_not_ended_is_waited_for(status: str) -> None:
    assert watch(*[job(status)] * 100) is None


def test_a_complete_job_without_a_url_gets_three_more_polls_and_then_ends_the_wait() -> None:
    assert watch(NO_URL, NO_URL, NO_URL) is None
    assert watch(NO_URL, NO_URL, job("complete")) == job("complete")
    assert watch(NO_URL, NO_URL, NO_URL, NO_URL) is NO_URL


def test_a_complete_job_without_a_url_ends_the_wait_at_the_deadline() -> None:
    assert JobWatcher("job-1", deadline=START).record_poll(NO_URL, START) is NO_URL


def test_a_status_is_told_once_and_so_is_one_that_goes_backwards() -> None:
    notes = Notes()
    statuses = ["queued", "queued", "rendering", "rendering", "queued", "on_hold", "on_hold", "complete"]
    watch(*map(job, statuses), listener=notes)
    assert notes.changes == ["queued", "rendering", "queued", "on_hold", "complete"]


def test_a_failure_is_told_once_until_it_is_another_or_is_over() -> None:
    notes = Notes()
    watch(failed(500), failed(500), failed(502), job(), failed(502), failed(502), listener=notes)
    assert notes.warnings == [500, 502, 502]


@pytest.mark.parametrize("status", [None, 403, 408, 422, 429, 500, 502, 503])
def test_a_failed_poll_is_not_a_failed_job(status: int | None) -> None:
    assert watch(*[failed(status)] * 100) is None


@pytest.mark.parametrize("status", [401, 404])
def test_a_refusal_by_something_in_between_is_not_the_vendors(status: int) -> None:
    assert watch(*[failed(status, by_vendor=False)] * 100) is None


@pytest.mark.parametrize(("status", "error"), [(401, errors.Unauthorized), (404, errors.NotFound)])
def test_a_wait_ends_when_the_vendor_has_refused_for_a_minute(
    status: int, error: type[errors.RequestFailed]
) -> None:
    refused = failed(status)
    assert watch(refused, refused, refused) is None
    with pytest.raises(error, match=f"with {status} .4 polls in 60 s had this answer.") as ended:
        watch(refused, refused, refused, refused)
    assert (ended.value.status_code, ended.value.job_id, ended.value.retryable) == (status, "job-1", False)


@pytest.mark.parametrize(("every", "enough"), [(0.5, 121), (30, 3), (300, 3)])
def test_a_refusal_needs_three_polls_and_a_minute(every: float, enough: int) -> None:
    assert watch(*[failed(404)] * (enough - 1), every=every) is None
    with pytest.raises(errors.NotFound):
        watch(*[failed(404)] * enough, every=every)


@pytest.mark.parametrize("other", [job(), failed(500), failed(404)], ids=["job", "500", "404"])
def test_a_refusal_that_something_else_interrupts_begins_again(
    other: models.Job | errors.RequestFailed,
) -> None:
    refused = [failed(401)] * 3
    assert watch(*refused, other, *refused) is None


def test_a_job_that_was_just_submitted_may_be_unknown_for_ten_minutes() -> None:
    unknown = [failed(404)] * 31
    assert watch(*unknown[:30], submitted_at=START) is None
    with pytest.raises(errors.NotFound):
        watch(*unknown, submitted_at=START)
    with pytest.raises(errors.NotFound):
        watch(*unknown[:4], submitted_at=START - 600)


def test_a_key_that_is_not_accepted_has_no_such_grace() -> None:
    with pytest.raises(errors.Unauthorized):
        watch(*[failed(401)] * 4, submitted_at=START)


# --- at the deadline ---


def out_of_time(*seen: models.Job | errors.RequestFailed, **how: Any) -> errors.MagicHourError:
    watcher = JobWatcher("job-1", deadline=DEADLINE, **how)
    for one in seen:
        watcher.record_poll(one, START)
    return watcher.timeout_error(START)


def test_a_wait_that_is_too_long_names_the_job_and_says_that_it_goes_on() -> None:
    error = out_of_time(job())
    assert (type(error), error.job_id, error.retryable, error.charged) == (
        errors.WaitTimeout,
        "job-1",
        True,
        "yes",
    )
    for words in ("job job-1", "status is rendering", "continues at Magic Hour", "may still finish"):
        assert words in str(error)


def test_a_wait_that_is_too_long_tells_the_last_status_and_the_last_failure() -> None:
    assert "status is rendering, and the last poll failed (it went wrong with 500)" in str(
        out_of_time(job(), failed(500))
    )
    assert "status is not known, and the last poll failed" in str(out_of_time(failed(500)))
    assert "failed" not in str(out_of_time(failed(500), job()))


@pytest.mark.parametrize(("status", "error"), [(401, errors.Unauthorized), (404, errors.NotFound)])
def test_a_refusal_by_the_last_poll_is_the_error_also_when_there_was_no_time_for_more(
    status: int, error: type[errors.RequestFailed]
) -> None:
    found = out_of_time(job(), failed(status))
    assert type(found) is error
    assert "continues at Magic Hour" not in str(found)
    assert "(the last poll had this answer)" in str(found)


def test_a_job_that_was_just_submitted_and_is_unknown_goes_on() -> None:
    assert type(out_of_time(failed(404), submitted_at=START - 10)) is errors.WaitTimeout


# --- pauses ---


@pytest.mark.parametrize(
    ("seen", "pause"),
    [
        (job(), 120),
        (failed(500), 120),
        (failed(503, retry_after=200), 200),
        (failed(503, retry_after=1), 120),
        (failed(503, retry_after=86_400), 300),
        (failed(404), 30),
        (failed(401), 30),
        (failed(404, by_vendor=False), 120),
        (NO_URL, 30),
    ],
    ids=str,
)
def test_the_pause_is_as_scheduled_unless_the_answer_says_more(
    seen: models.Job | errors.RequestFailed, pause: float
) -> None:
    watcher = JobWatcher("job-1", deadline=DEADLINE)
    watcher.record_poll(seen, START)
    assert watcher.pause(120) == pause


@pytest.mark.parametrize(
    ("created_at", "seconds"),
    [
        ("2026-11-26T01:02:03.500Z", 1_795_654_923.5),
        ("2026-11-26T02:02:03.500+01:00", 1_795_654_923.5),
        ("2026-11-26T01:02:03.500", None),  # in which zone?
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_when_a_job_was_made_is_read_if_it_can_be(created_at: str | None, seconds: float | None) -> None:
    assert job(created_at=created_at).creation_time == seconds
