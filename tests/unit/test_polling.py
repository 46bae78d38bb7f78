"""When to poll next, and how often the API may be polled."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from magichour_provider.api import models
from magichour_provider.api.polling import PollSchedule, RateLimiter, RenderTimes
from magichour_provider.exceptions import RateLimited

UNKNOWN_AGE = float("inf")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers are in the middle of their range."""
    monkeypatch.setattr("magichour_provider.api.polling.random.random", lambda: 0.5)


def learned(usual_seconds: float) -> PollSchedule:
    renders = RenderTimes()
    renders.record_end("video", None, None, after=usual_seconds, before=usual_seconds)
    return PollSchedule(renders=renders)


# --- the schedule of one job ---


@pytest.mark.parametrize(("after", "before"), [(-20, -3.3), (5, 2), (0, 0), (80_000, 90_000), (3, math.nan)])
def test_an_age_that_no_job_can_have_is_not_learned(after: float, before: float) -> None:
    renders = RenderTimes()
    renders.record_end("video", None, None, after=after, before=before)
    assert renders.usual("video", None, None) is None


@pytest.mark.parametrize("clip", [math.inf, 0.0, -1.0, 1e12])
def test_no_length_of_a_clip_breaks_the_schedule(clip: float) -> None:
    schedule = PollSchedule(clip_seconds=clip)
    schedule.record_end(after=10, before=12)
    assert schedule.next_poll(5) > 0


@pytest.mark.parametrize("age", [-32_400.0, -1.0])
def test_a_job_from_the_future_is_polled_as_one_that_was_just_submitted(age: float) -> None:
    for schedule in (PollSchedule(), learned(20), PollSchedule(expects_event=True)):
        assert schedule.first_poll(age) == schedule.first_poll(0)
        assert schedule.next_poll(age) == schedule.next_poll(0)


@pytest.mark.parametrize(("usual", "first"), [(20, 13.8), (174, 65.7), (1200, 263.8)])
def test_the_first_poll_comes_when_the_job_may_just_be_done(usual: float, first: float) -> None:
    assert learned(usual).first_poll(0) == pytest.approx(first, abs=0.1)
    assert learned(usual).first_poll(5) == pytest.approx(first - 5, abs=0.1)


@pytest.mark.parametrize(
    ("age", "pause"),
    [
        (0, 36.1),  # hardly any job has ended
        (61, 27.1),
        (122, 18.0),  # many end now
        (1000, 18.0),
        (UNKNOWN_AGE, 18.0),
    ],
)
def test_pauses_are_shorter_around_the_usual_render_time(age: float, pause: float) -> None:
    assert learned(174).next_poll(age) == pytest.approx(pause, abs=0.1)


@pytest.mark.parametrize(("age", "pause"), [(20, 12.9), (60, 19.1), (174, 24.5), (1200, 29.1)])
def test_pauses_grow_with_the_age_while_nothing_is_known(age: float, pause: float) -> None:
    assert PollSchedule().first_poll(0) == pytest.approx(16.2, abs=0.1)
    assert PollSchedule().next_poll(age) == pytest.approx(pause, abs=0.1)


def test_a_voice_is_polled_earlier_than_a_video_while_nothing_is_known() -> None:
    assert PollSchedule(job_type="audio").first_poll(0) == pytest.approx(8.4, abs=0.1)


def test_a_job_of_unknown_age_is_polled_as_the_vendors_median_says() -> None:
    assert PollSchedule().next_poll(UNKNOWN_AGE) == pytest.approx(18.0, abs=0.1)


def test_an_older_job_is_polled_at_a_random_point_of_the_pause() -> None:
    """After a restart of the triggerer, nobody knows when it was polled last."""
    assert PollSchedule().first_poll(500) == pytest.approx(PollSchedule().next_poll(500) / 2)


@pytest.mark.parametrize("age", [0, 0.2])
def test_a_given_interval_holds_from_the_first_poll_on(age: float) -> None:
    assert PollSchedule(poll_interval=0.5).first_poll(age) == pytest.approx(0.5 - age)
    assert PollSchedule(poll_interval=0.5).next_poll(age) == pytest.approx(0.5)


@pytest.mark.parametrize(("random", "pause"), [(0.0, 9), (0.5, 10), (1.0, 11)])
def test_jitter_is_a_tenth_each_way(random: float, pause: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magichour_provider.api.polling.random.random", lambda: random)
    assert PollSchedule(poll_interval=10).next_poll(0) == pytest.approx(pause)


# --- render times ---


def renders_of(*seconds: float, clip_seconds: float | None = None, mode: str | None = None) -> RenderTimes:
    renders = RenderTimes()
    for one in seconds:
        renders.record_end("video", mode, clip_seconds, after=one - 5, before=one + 5)
    return renders


def test_the_usual_time_is_the_median_of_the_latest_ends() -> None:
    assert renders_of(20, 30, 40).usual("video", None, None) == 30
    assert renders_of(*[500] * 20, *[30] * RenderTimes.LATEST).usual("video", None, None) == 30


def test_one_slow_render_does_not_change_the_usual_time() -> None:
    assert renders_of(20, 20, 900).usual("video", None, None) == 20


def test_a_load_that_falls_is_noticed_after_three_ends_and_one_that_rises_after_eight() -> None:
    slow = [300] * RenderTimes.LATEST
    fast = [30] * RenderTimes.LATEST
    assert renders_of(*slow, *[30] * 3).usual("video", None, None) == 30
    assert renders_of(*fast, *[300] * 7).usual("video", None, None) == 30
    assert renders_of(*fast, *[300] * 8).usual("video", None, None) == 300


@pytest.mark.parametrize(
    ("mode", "clip_seconds", "usual"),
    [
        ("realistic", 20, 300),
        ("realistic", 16, 300),
        ("realistic", 40, None),
        ("realistic", 5, None),
        ("realistic", None, None),
        ("prompted", 20, None),
        (None, 20, None),
    ],
)
def test_a_job_is_compared_with_those_of_its_mode_and_of_about_its_clip_length(
    mode: str | None, clip_seconds: float | None, usual: float | None
) -> None:
    assert renders_of(300, clip_seconds=20, mode="realistic").usual("video", mode, clip_seconds) == usual


@pytest.mark.parametrize("clip_seconds", [0, -1.0, 1e-9, 1e9])
def test_no_clip_length_that_the_vendor_could_say_is_an_error(clip_seconds: float) -> None:
    assert renders_of(30, clip_seconds=clip_seconds).usual("video", None, clip_seconds) == 30


# --- the rate ---

OK = models.Job.model_validate({"id": "job-1", "status": "rendering"})


def too_many(retry_after: float | None = None) -> RateLimited:
    return RateLimited("too many", status_code=429, retry_after=retry_after)


class Api:
    """Polls that always want to be made, in virtual time, against an API that allows so many a second."""

    def __init__(
        self, limiter: RateLimiter, allowed: Callable[[float], float], retry_after: float | None
    ) -> None:
        self.limiter = limiter
        self.allowed = allowed
        self.retry_after = retry_after
        self.now = 1000.0
        self.tokens = 1.0
        self.answered: list[float] = []
        self.refused: list[float] = []

    def run(self, seconds: float, every: float = 0.0) -> None:
        until = self.now + seconds
        while self.now < until:
            before = self.now
            self.now += self.limiter.reserve_slot(self.now)
            generation = self.limiter.generation
            self.now += 0.001  # the poll itself
            self.tokens = min(
                max(1.0, self.allowed(self.now)), self.tokens + (self.now - before) * self.allowed(self.now)
            )
            if self.tokens >= 1:
                self.tokens -= 1
                self.answered.append(self.now)
                self.limiter.record_answer(OK, self.now, generation)
            else:
                self.refused.append(self.now)
                self.limiter.record_answer(too_many(self.retry_after), self.now, generation)
            self.now += every

    def rate(self, last: float) -> float:
        """Polls a second that were answered in the last seconds."""
        return sum(self.now - last < at for at in self.answered) / last


@pytest.mark.parametrize("retry_after", [None, 1.0], ids=["no Retry-After", "Retry-After"])
@pytest.mark.parametrize("allowed", [1, 4, 100])
def test_the_rate_settles_near_what_the_api_allows(allowed: float, retry_after: float | None) -> None:
    api = Api(RateLimiter(), lambda _: allowed, retry_after)
    api.run(900)
    assert 0.7 * allowed <= api.rate(last=600) <= allowed
    assert sum(api.now - 600 < at for at in api.refused) < 0.1 * 600 * api.rate(last=600)


def test_the_rate_follows_an_api_that_allows_less_and_then_more() -> None:
    api = Api(RateLimiter(), lambda now: 5 if 1600 < now < 2200 else 50, 1.0)
    rates = []
    for _ in range(3):
        api.run(600)
        rates.append(api.rate(last=200))
    assert rates == [pytest.approx(40, abs=10), pytest.approx(4, abs=1), pytest.approx(30, abs=10)]


def test_requests_per_second_are_a_limit_that_no_growth_exceeds() -> None:
    api = Api(RateLimiter(requests_per_second=2), lambda _: 1000, None)
    api.run(600)
    assert api.refused == []
    assert api.rate(last=600) == pytest.approx(2, rel=0.02)


def test_a_429_pauses_all_polls_for_as_long_as_it_says() -> None:
    limiter = RateLimiter()
    assert limiter.reserve_slot(1000.0) == 0
    limiter.record_answer(too_many(33), 1000.0, limiter.generation)
    assert 33 <= limiter.reserve_slot(1000.0) < 36


@pytest.mark.parametrize(("retry_after", "pause"), [(None, 2), (0, 2), (86_400, 300)])
def test_a_429_without_a_sensible_pause_gets_one(retry_after: float | None, pause: float) -> None:
    limiter = RateLimiter()
    limiter.record_answer(too_many(retry_after), 1000.0, limiter.generation)
    assert limiter.reserve_slot(1000.0) == pytest.approx(pause, abs=3)


def test_many_429s_to_polls_of_the_same_moment_decrease_the_rate_once() -> None:
    one, many = RateLimiter(), RateLimiter()
    for limiter, answers in ((one, 1), (many, 16)):
        for _ in range(50):
            limiter.record_answer(OK, 1000.0, limiter.generation)
        generation = limiter.generation
        for _ in range(answers):
            limiter.record_answer(too_many(1), 1000.5, generation)
        limiter.reserve_slot(1001.0)
    assert many.generation == one.generation
    assert many.reserve_slot(1001.0) == pytest.approx(one.reserve_slot(1001.0), rel=0.4)


def test_after_a_429_polls_come_one_by_one() -> None:
    limiter = RateLimiter()
    for _ in range(100):
        limiter.record_answer(OK, 1000.0, limiter.generation)
    limiter.record_answer(too_many(10), 1001.0, limiter.generation)
    slots = [1001 + limiter.reserve_slot(1001.0) for _ in range(200)]
    gaps = [later - earlier for earlier, later in pairwise(slots)]
    assert slots[0] >= 1011
    assert min(gaps) > 0
    assert gaps[0] == pytest.approx(1 / 70, rel=0.05)  # seven tenths of what there was
    assert gaps[-1] < gaps[0]  # and growing


# --- polls as the safety net of webhooks ---


def expecting(renders: RenderTimes | None = None) -> PollSchedule:
    return PollSchedule(renders=renders, expects_event=True)


def test_where_an_event_is_expected_the_first_poll_comes_when_nearly_all_such_jobs_have_ended() -> None:
    assert expecting().first_poll(0) == pytest.approx(3 * 174)
    assert PollSchedule(job_type="audio", expects_event=True).first_poll(0) == pytest.approx(60)


def test_an_interval_that_a_person_has_set_is_kept_where_an_event_is_expected() -> None:
    assert PollSchedule(5.0, expects_event=True).first_poll(0) == pytest.approx(5)


def test_polls_are_rare_while_events_arrive_and_their_pauses_stay_bounded() -> None:
    assert [expecting().next_poll(age) for age in (100, 600, 1e6, UNKNOWN_AGE)] == [
        pytest.approx(pause) for pause in (60, 261, 261, 261)
    ]


@pytest.mark.parametrize("spread", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("median", [20, 174, 1200])
def test_a_job_costs_at_most_three_tenths_of_a_poll_while_events_arrive(median: float, spread: float) -> None:
    chance = random.Random(1)
    renders = RenderTimes()
    polls, jobs = 0, 2000
    for _ in range(jobs):
        takes = chance.lognormvariate(math.log(median), spread)
        schedule = expecting(renders)
        age = schedule.first_poll(0)
        while age < takes:
            polls += 1
            age += schedule.next_poll(age)
        renders.record_end("video", None, None, after=takes, before=takes)
        renders.record_finder(by_poll=False)
    assert polls / jobs <= 0.3


def test_three_of_the_last_ten_ends_found_by_a_poll_bring_the_normal_schedule_back_with_one_warning() -> None:
    renders = RenderTimes()
    normal = PollSchedule().first_poll(0)
    found = [True, False, True, False, False, True, True]
    assert [renders.record_finder(by_poll=by_poll) for by_poll in found] == [False] * 5 + [True, False]
    assert expecting(renders).first_poll(0) == normal
    for _ in range(8):
        renders.record_finder(by_poll=False)
    assert expecting(renders).first_poll(0) == pytest.approx(3 * 174), "the events arrive again"
