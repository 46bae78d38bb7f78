"""Waiting, driven by hand: the flow says what it wants, the test says how it went and what time it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from magichour_provider import exceptions as errors
from magichour_provider.api import flows, wire
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import LATEST, PollLimiter, PollSchedule

START = 1_000_000.0
JITTER = 0.11  # a tenth each way, and what floats lose


def looked(status: str, **more: Any) -> wire.Job:
    downloads = [{"url": "https://storage.example/a.mp4"}] if status == "complete" else []
    return wire.Job.model_validate({"id": "job-1", "status": status, "downloads": downloads, **more})


def failed(
    kind: type[errors.RequestFailed] = errors.Unavailable,
    *,
    status: int | None = None,
    retry_after: float | None = None,
) -> errors.RequestFailed:
    error = kind("it went wrong", status_code=status)
    error.retry_after = retry_after
    return error


class Waiting(flows.Listener):
    """Plays the world for one flow: each look gets the next answer, the last one for ever."""

    def __init__(self, *answers: wire.Job | errors.RequestFailed | Callable[[float], wire.Job]) -> None:
        self.now = START
        self.answers = list(answers)
        self.looks: list[float] = []
        self.sleeps: list[float] = []
        self.changes: list[str] = []
        self.problems: list[errors.RequestFailed] = []

    def on_change(self, job: wire.Job) -> None:
        self.changes.append(job.status)

    def on_failed_poll(self, why: errors.RequestFailed) -> None:
        self.problems.append(why)

    def run(
        self,
        *,
        timeout: float = 100,
        poll_interval: float | None = 10,
        limiter: PollLimiter | None = None,
        job_type: JobType = "video",
        **how: Any,
    ) -> wire.Job:
        flow = flows.wait(
            "job-1",
            deadline=START + timeout,
            schedule=PollSchedule(poll_interval, limiter or PollLimiter(), job_type),
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
                assert (step.name, step.job_id) == ("get", "job-1")
                self.looks.append(self.now - START)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if callable(answer):
                    answer = answer(self.now - START)
                step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
        except StopIteration as end:
            job: wire.Job = end.value
            return job


def assert_about(seen: Iterable[float], expected: list[float]) -> None:
    assert list(seen) == pytest.approx(expected, rel=JITTER)


@pytest.mark.parametrize(
    "end",
    [
        {"status": "complete"},
        {"status": "error"},
        {"status": "canceled"},
        {"status": "rendering", "enabled": False},
    ],
)
def test_it_ends_when_the_job_has_well_or_not(end: dict[str, Any]) -> None:
    waiting = Waiting(looked("queued"), looked("rendering"), looked(**end))
    assert waiting.run() == looked(**end)
    assert len(waiting.looks) == 3


def test_a_job_that_has_ended_already_is_looked_at_once_and_at_once() -> None:
    waiting = Waiting(looked("complete"))
    waiting.run()
    assert (waiting.looks, waiting.sleeps) == ([0], [])


def test_a_video_whose_url_is_still_to_come_is_looked_at_again() -> None:
    without = looked("complete", downloads=[])
    assert Waiting(without, without, looked("complete")).run().download is not None
    assert Waiting(*[without] * 9).run().download is None  # but not for ever


def test_a_pause_without_end_does_not_end_the_looking() -> None:
    storm = failed(errors.RateLimited, status=429, retry_after=86_400)
    waiting = Waiting(storm, looked("complete"))
    waiting.run(timeout=3600)
    assert waiting.looks == [0, 300]


def test_a_job_just_submitted_is_first_looked_at_when_it_may_be_done() -> None:
    waiting = Waiting(looked("rendering"), looked("complete"))
    waiting.run(poll_interval=None, submitted_at=START)
    assert waiting.sleeps == [pytest.approx(66, rel=JITTER), pytest.approx(27, abs=4)]


def test_the_schedule_knows_how_old_the_job_is() -> None:
    waiting = Waiting(looked("complete"))
    waiting.run(poll_interval=None, submitted_at=START - 20)
    assert waiting.sleeps == [pytest.approx(46, abs=7)]


def test_a_change_is_told_once_and_so_is_one_that_goes_backwards() -> None:
    statuses = ["queued", "queued", "rendering", "rendering", "queued", "on_hold", "on_hold", "complete"]
    waiting = Waiting(*map(looked, statuses))
    assert waiting.run().status == "complete"
    assert waiting.changes == ["queued", "rendering", "queued", "on_hold", "complete"]


FAILED_LOOKS = [
    failed(errors.RateLimited, status=429),
    failed(errors.Unavailable, status=500),
    failed(errors.Unavailable),
    failed(errors.Unauthorized, status=401),
    failed(errors.NotFound, status=404),
    failed(errors.Forbidden, status=403),
    failed(errors.InvalidRequest, status=422),
]


@pytest.mark.parametrize("look", FAILED_LOOKS, ids=lambda look: type(look).__name__)
def test_a_failed_look_is_not_a_failed_job(look: errors.RequestFailed) -> None:
    assert Waiting(look, looked("rendering"), look, look, looked("complete")).run().status == "complete"


@pytest.mark.parametrize("look", FAILED_LOOKS, ids=lambda look: type(look).__name__)
def test_looks_that_fail_until_the_deadline_end_the_wait_and_say_why(look: errors.RequestFailed) -> None:
    waiting = Waiting(look)
    with pytest.raises(errors.WaitTimeout, match="its last known status is not known") as timeout:
        waiting.run()
    assert timeout.value.__cause__ is look
    assert str(look) in str(timeout.value)


def test_a_failure_is_told_once_until_it_is_another() -> None:
    same, other = failed(status=500), failed(status=502)
    waiting = Waiting(same, same, other, looked("rendering"), same, same, looked("complete"))
    waiting.run()
    assert waiting.problems == [same, other, same]


def test_the_wait_is_over_at_the_deadline_with_a_last_look_right_then() -> None:
    waiting = Waiting(looked("rendering"))
    with pytest.raises(errors.WaitTimeout) as timeout:
        waiting.run(timeout=25)
    assert_about(waiting.looks, [0, 10, 20, 25])
    assert waiting.looks[-1] == 25
    error = timeout.value
    assert (error.job_id, error.retryable, error.charged, error.__cause__) == ("job-1", True, "yes", None)
    for words in ("job job-1", "status is rendering", "may still finish", "a retry", "free of charge"):
        assert words in str(error)


def test_the_last_known_status_and_the_last_failure_are_both_told() -> None:
    with pytest.raises(errors.WaitTimeout, match=r"rendering, and the last look failed \(it went wrong\)"):
        Waiting(looked("rendering"), failed(status=500)).run()


def test_a_failure_that_is_over_is_not_told_as_the_reason() -> None:
    with pytest.raises(errors.WaitTimeout) as timeout:
        Waiting(failed(status=500), looked("rendering")).run()
    assert "went wrong" not in str(timeout.value)


@pytest.mark.parametrize("submitted_at", [None, START - 50])
def test_a_deadline_that_has_passed_still_gets_one_look(submitted_at: float | None) -> None:
    waiting = Waiting(looked("complete"))
    assert waiting.run(timeout=-1, submitted_at=submitted_at).status == "complete"
    assert waiting.sleeps == []


def test_the_first_look_is_not_put_off_beyond_the_deadline() -> None:
    waiting = Waiting(looked("complete"))
    waiting.run(poll_interval=None, timeout=5, submitted_at=START)
    assert waiting.looks == [5]


def test_a_pause_that_the_vendor_asks_for_is_kept() -> None:
    waiting = Waiting(failed(errors.RateLimited, status=429, retry_after=33), looked("complete"))
    waiting.run()
    assert waiting.sleeps == [33]


def test_a_pause_shorter_than_the_interval_does_not_hurry() -> None:
    waiting = Waiting(failed(errors.RateLimited, status=429, retry_after=1), looked("complete"))
    waiting.run()
    assert_about(waiting.sleeps, [10])


def test_a_pause_beyond_the_deadline_ends_there() -> None:
    waiting = Waiting(failed(errors.RateLimited, status=429, retry_after=3600), looked("complete"))
    assert waiting.run(timeout=100).status == "complete"
    assert waiting.looks == [0, 100]


def test_what_is_not_a_failed_look_ends_the_wait() -> None:
    flow = flows.wait(" ", deadline=START, schedule=PollSchedule(1), clock=lambda: START)
    with pytest.raises(errors.InvalidInput):
        next(flow)


# --- what waits on one connection share ---


def test_too_many_requests_of_one_wait_pause_the_others_too() -> None:
    limiter = PollLimiter()
    first = Waiting(failed(errors.RateLimited, status=429, retry_after=60), looked("complete"))
    first.run(limiter=limiter)
    assert first.looks == [0, 60]
    second = Waiting(looked("complete"))
    second.now = START + 20
    second.run(limiter=limiter)
    assert 60 <= second.looks[0] <= 60 + 6  # spread, so that not everybody comes back at once


def test_a_pause_that_begins_during_another_is_kept_by_whoever_waits() -> None:
    limiter = PollLimiter()
    limiter.pause(START, 10)
    waiting = Waiting(looked("complete"))
    flow = flows.wait(
        "job-1", deadline=START + 100, schedule=PollSchedule(1, limiter), clock=lambda: waiting.now
    )
    step = next(flow)
    limiter.pause(START + 5, 50)
    waiting.now += step.seconds
    step = flow.send(None)
    assert waiting.now + step.seconds >= START + 55


def test_a_429_that_does_not_say_for_how_long_is_no_excuse_to_go_on_at_once() -> None:
    limiter = PollLimiter()
    Waiting(failed(errors.RateLimited, status=429), looked("complete")).run(
        limiter=limiter, poll_interval=0.1
    )
    assert limiter.pause_left(START + 1) == 0 or limiter.pause_left(START + 1) >= 4


def test_a_pause_does_not_outlast_the_deadline() -> None:
    limiter = PollLimiter()
    limiter.pause(START, 200)
    waiting = Waiting(looked("complete"))
    assert waiting.run(limiter=limiter).status == "complete"
    assert waiting.looks == [100]


def test_no_more_looks_a_second_than_the_connection_allows() -> None:
    limiter = PollLimiter(requests_per_second=2)
    looks = []
    for _ in range(5):
        waiting = Waiting(looked("complete"))
        waiting.run(limiter=limiter)
        looks += waiting.looks
    assert looks == [0, 0.5, 1, 1.5, 2]


@pytest.mark.parametrize("seconds", [20, 60, 600])
def test_the_median_follows_the_jobs_that_end(seconds: float) -> None:
    limiter = PollLimiter()
    for _ in range(LATEST):
        Waiting(lambda age: looked("complete" if age >= seconds else "rendering")).run(
            limiter=limiter, poll_interval=None, submitted_at=START, timeout=3600
        )
    assert limiter.renders["video"].median_seconds == pytest.approx(seconds, rel=0.25)


def test_how_long_voices_take_teaches_nothing_of_videos() -> None:
    limiter = PollLimiter()
    for _ in range(LATEST):
        Waiting(lambda age: looked("complete" if age >= 60 else "rendering")).run(
            limiter=limiter, job_type="audio", poll_interval=None, submitted_at=START, timeout=3600
        )
    assert limiter.renders["audio"].median_seconds == pytest.approx(60, rel=0.25)
    assert vars(limiter.renders["video"]) == vars(PollLimiter().renders["video"])


@pytest.mark.parametrize("how", [{}, {"submitted_at": None}])
def test_a_job_that_was_taken_up_or_failed_teaches_nothing(how: dict[str, Any]) -> None:
    limiter = PollLimiter()
    end = looked("complete") if how else looked("error")
    Waiting(end).run(limiter=limiter, poll_interval=None, **({"submitted_at": START} | how))
    assert vars(limiter.renders["video"]) == vars(PollLimiter().renders["video"])
