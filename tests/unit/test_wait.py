"""The flow of a wait, driven by hand: the test performs its steps and says what time it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.api import flows, models
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import PollSchedule, RateLimiter, RenderTimes
from magichour_provider.api.watching import Listener

START = 1_000_000.0
JITTER = 0.11  # a tenth each way, and what floats lose


def seen(status: str, **more: Any) -> models.Job:
    downloads = [{"url": "https://storage.example/a.mp4"}] if status == "complete" else []
    return models.Job.model_validate({"id": "job-1", "status": status, "downloads": downloads, **more})


def failed(
    error_cls: type[errors.RequestFailed] = errors.Unavailable,
    *,
    status: int | None = None,
    retry_after: float | None = None,
    by_vendor: bool = False,
) -> errors.RequestFailed:
    return error_cls("it went wrong", status_code=status, retry_after=retry_after, by_vendor=by_vendor)


class Waiting(Listener):
    """Performs the steps of one flow: each poll gets the next answer, the last one for ever."""

    def __init__(self, *answers: models.Job | errors.RequestFailed | Callable[[float], models.Job]) -> None:
        self.now = START
        self.answers = list(answers)
        self.polls: list[float] = []
        self.sleeps: list[float] = []

    def run(
        self,
        *,
        timeout: float = 100,
        poll_interval: float | None = 10,
        limiter: RateLimiter | None = None,
        job_type: JobType = "video",
        renders: RenderTimes | None = None,
        clip_seconds: float | None = None,
        **how: Any,
    ) -> models.Job:
        flow = flows.wait(
            "job-1",
            deadline=START + timeout,
            schedule=PollSchedule(poll_interval, job_type, clip_seconds=clip_seconds, renders=renders),
            limiter=limiter or RateLimiter(),
            listener=self,
            clock=lambda: self.now,
            **how,
        )
        try:
            step = next(flow)
            while True:
                if isinstance(step, flows.Sleep):
                    self.sleeps.append(step.seconds)
                    self.now += step.seconds
                    step = flow.send(None)
                    continue
                assert (step.method, step.job_id) == ("GET", "job-1")
                self.polls.append(self.now - START)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if callable(answer):
                    answer = answer(self.now - START)
                step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
        except StopIteration as end:
            job: models.Job = end.value
            return job


def assert_about(found: Iterable[float], expected: list[float]) -> None:
    assert list(found) == pytest.approx(expected, rel=JITTER)


@pytest.mark.parametrize("end", ["complete", "error", "canceled"])
def test_a_wait_polls_until_the_job_has_ended(end: str) -> None:
    waiting = Waiting(seen("queued"), seen("rendering"), seen(end))
    assert waiting.run() == seen(end)
    assert len(waiting.polls) == 3


def test_a_job_that_has_ended_already_is_polled_once_and_at_once() -> None:
    waiting = Waiting(seen("complete"))
    waiting.run()
    assert (waiting.polls, waiting.sleeps) == ([0], [])


def test_a_job_just_submitted_is_first_polled_when_it_may_be_done() -> None:
    waiting = Waiting(seen("rendering"), seen("complete"))
    waiting.run(poll_interval=None, submitted_at=START)
    assert waiting.sleeps == [pytest.approx(16.2, rel=JITTER), pytest.approx(12, abs=2)]


def test_the_schedule_knows_how_old_the_job_is() -> None:
    waiting = Waiting(seen("complete"))
    waiting.run(poll_interval=None, submitted_at=START - 10)
    assert waiting.sleeps == [pytest.approx(6.2, abs=2)]


def test_a_job_of_unknown_age_is_as_old_as_the_vendor_says() -> None:
    made = datetime.fromtimestamp(START - 600, UTC).isoformat()
    waiting = Waiting(seen("rendering", created_at=made), seen("complete"))
    waiting.run(poll_interval=None)
    assert waiting.sleeps == [pytest.approx(PollSchedule().next_poll(600), rel=2 * JITTER)]


FAILED_POLLS = [
    failed(errors.RateLimited, status=429),
    failed(errors.Unavailable, status=500),
    failed(errors.Unavailable),
    failed(errors.Unauthorized, status=401),
    failed(errors.NotFound, status=404),
    failed(errors.Forbidden, status=403),
    failed(errors.InvalidRequest, status=422),
]


@pytest.mark.parametrize("poll", FAILED_POLLS, ids=lambda poll: type(poll).__name__)
def test_a_failed_poll_is_not_a_failed_job(poll: errors.RequestFailed) -> None:
    assert Waiting(poll, seen("rendering"), poll, poll, seen("complete")).run().status == "complete"


@pytest.mark.parametrize("poll", FAILED_POLLS, ids=lambda poll: type(poll).__name__)
def test_polls_that_fail_until_the_deadline_end_the_wait_and_say_why(poll: errors.RequestFailed) -> None:
    with pytest.raises(errors.WaitTimeout, match="its last known status is not known") as timeout:
        Waiting(poll).run()
    assert timeout.value.__cause__ is poll
    assert str(poll) in str(timeout.value)


def test_a_job_that_the_vendor_does_not_know_ends_the_wait_early() -> None:
    waiting = Waiting(failed(errors.NotFound, status=404, by_vendor=True))
    with pytest.raises(errors.NotFound):
        waiting.run(timeout=3600)
    assert waiting.polls[-1] == pytest.approx(66, abs=7)


def test_the_wait_is_over_at_the_deadline_with_a_last_poll_right_then() -> None:
    waiting = Waiting(seen("rendering"))
    with pytest.raises(errors.WaitTimeout):
        waiting.run(timeout=25)
    assert_about(waiting.polls, [0, 10, 20, 25])
    assert waiting.polls[-1] == 25


@pytest.mark.parametrize("submitted_at", [None, START - 50])
def test_a_deadline_that_has_passed_still_gets_one_poll(submitted_at: float | None) -> None:
    waiting = Waiting(seen("complete"))
    assert waiting.run(timeout=-1, submitted_at=submitted_at).status == "complete"
    assert waiting.sleeps == []


def test_the_first_poll_is_not_put_off_beyond_the_deadline() -> None:
    waiting = Waiting(seen("complete"))
    waiting.run(poll_interval=None, timeout=5, submitted_at=START)
    assert waiting.polls == [5]


def test_a_pause_that_the_vendor_asks_for_is_kept() -> None:
    waiting = Waiting(failed(errors.Unavailable, status=503, retry_after=33), seen("complete"))
    waiting.run()
    assert waiting.sleeps == [33]


def test_a_pause_beyond_the_deadline_ends_there() -> None:
    waiting = Waiting(failed(errors.RateLimited, status=429, retry_after=3600), seen("complete"))
    assert waiting.run(timeout=100).status == "complete"
    assert waiting.polls == [0, 100]


def test_a_pause_without_end_does_not_end_the_polling() -> None:
    storm = failed(errors.RateLimited, status=429, retry_after=86_400)
    waiting = Waiting(storm, seen("complete"))
    waiting.run(timeout=3600)
    assert_about(waiting.polls, [0, 300])


def test_an_id_that_cannot_be_asked_for_ends_the_wait() -> None:
    flow = flows.wait(
        " ", deadline=START, schedule=PollSchedule(1), limiter=RateLimiter(), clock=lambda: START
    )
    with pytest.raises(errors.InvalidInput):
        next(flow)


# --- what waits on one connection share ---


def test_too_many_requests_of_one_wait_pause_the_others_too() -> None:
    limiter = RateLimiter()
    first = Waiting(failed(errors.RateLimited, status=429, retry_after=60), seen("complete"))
    first.run(limiter=limiter)
    assert 60 <= first.polls[1] <= 62
    second = Waiting(seen("complete"))
    second.now = START + 20
    second.run(limiter=limiter)
    assert second.polls[0] > first.polls[1]  # not at the same time


def test_a_pause_that_begins_during_another_holds_for_a_wait_that_has_a_slot() -> None:
    limiter = RateLimiter()
    limiter.record_answer(failed(errors.RateLimited, status=429, retry_after=10), START, limiter.generation)
    now = START
    flow = flows.wait(
        "job-1", deadline=START + 100, schedule=PollSchedule(1), limiter=limiter, clock=lambda: now
    )
    step = next(flow)
    assert isinstance(step, flows.Sleep)
    limiter.record_answer(
        failed(errors.RateLimited, status=429, retry_after=50), START + 5, limiter.generation
    )
    now += step.seconds
    step = flow.send(None)
    assert isinstance(step, flows.Sleep)
    assert now + step.seconds >= START + 55


def test_a_pause_does_not_outlast_the_deadline() -> None:
    limiter = RateLimiter()
    limiter.record_answer(failed(errors.RateLimited, status=429, retry_after=200), START, limiter.generation)
    waiting = Waiting(seen("complete"))
    assert waiting.run(limiter=limiter).status == "complete"
    assert waiting.polls == [100]


def test_no_more_polls_a_second_than_the_connection_allows() -> None:
    limiter = RateLimiter(requests_per_second=2)
    polls = []
    for _ in range(5):
        waiting = Waiting(seen("complete"))
        waiting.run(limiter=limiter)
        polls += waiting.polls
    assert polls == [0, 0.5, 1, 1.5, 2]


def rendered(renders: RenderTimes, seconds: float, **how: Any) -> list[float]:
    """The polls of a job that takes so long."""
    waiting = Waiting(lambda age: seen("complete" if age >= seconds else "rendering"))
    waiting.run(**{"renders": renders, "poll_interval": None, "submitted_at": START, "timeout": 3600} | how)
    return waiting.polls


@pytest.mark.parametrize("seconds", [20, 60, 600])
def test_the_schedule_follows_the_jobs_that_end(seconds: float) -> None:
    renders = RenderTimes()
    for _ in range(20):
        rendered(renders, seconds)
    assert renders.usual("video", None, None) == pytest.approx(seconds, rel=0.25)


def test_a_job_is_polled_as_those_with_such_a_clip() -> None:
    renders = RenderTimes()
    for _ in range(5):
        rendered(renders, 30, clip_seconds=5)
        rendered(renders, 900, clip_seconds=300)
    assert rendered(renders, 30, clip_seconds=5)[0] < 25
    assert rendered(renders, 900, clip_seconds=300)[0] > 150


def test_the_length_of_the_clip_is_learned_from_a_poll() -> None:
    renders = RenderTimes()
    clip = {"start_seconds": 1, "end_seconds": 6}
    waiting = Waiting(lambda age: seen("complete" if age >= 30 else "rendering", **clip))
    waiting.run(renders=renders, submitted_at=START)
    assert renders.usual("video", None, 5) == pytest.approx(30, abs=6)
    assert renders.usual("video", None, None) is None


def test_how_long_voices_take_teaches_nothing_of_videos() -> None:
    renders = RenderTimes()
    rendered(renders, 60, job_type="audio")
    assert renders.usual("audio", None, None) == pytest.approx(60, rel=0.25)
    assert renders.usual("video", None, None) is None


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (seen("complete"), {"submitted_at": START - 600}),  # it may have ended long ago
        (seen("complete"), {"submitted_at": None}),
        (seen("error"), {"submitted_at": START}),
    ],
    ids=["picked up", "of unknown age", "failed"],
)
def test_a_job_whose_end_was_not_seen_or_that_failed_teaches_nothing(
    end: models.Job, how: dict[str, Any]
) -> None:
    renders = RenderTimes()
    Waiting(end).run(renders=renders, poll_interval=None, **how)
    assert renders.usual("video", None, None) is None


def test_a_job_that_was_picked_up_teaches_when_it_was_seen_going_on() -> None:
    renders = RenderTimes()
    rendered(renders, 60, submitted_at=START - 300)
    assert renders.usual("video", None, None) == pytest.approx(360, rel=0.1)
