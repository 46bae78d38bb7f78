"""
A burst of callers, each in a process of its own, against a rate limit: a simulation with the client's policy.

Only calls that the limit lets through count against it. Goodput is the share of the limit that is used until
the last caller is through.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import pytest
import tenacity

from magichour_provider.api import retries
from magichour_provider.exceptions import RateLimited

CALLERS = 64
ROUND_TRIP = 0.05  # seconds
RUNS = 5


class Limit(Protocol):
    """Of calls; ``rate`` is a second's."""

    rate: int

    def lets_through(self, now: float) -> bool: ...


@dataclass
class Window:
    """So many calls in each second of the clock."""

    rate: int
    _taken: dict[int, int] = field(default_factory=dict)

    def lets_through(self, now: float) -> bool:
        self._taken[int(now)] = self._taken.get(int(now), 0) + 1
        return self._taken[int(now)] <= self.rate


@dataclass
class SlidingWindow:
    """So many calls in any second."""

    rate: int
    _times: list[float] = field(default_factory=list)

    def lets_through(self, now: float) -> bool:
        self._times = [time for time in self._times if time > now - 1]
        if len(self._times) == self.rate:
            return False
        self._times.append(now)
        return True


@dataclass
class Bucket:
    """A token bucket that holds the tokens of a second."""

    rate: int
    _tokens: float = 0.0
    _at: float = 0.0

    def lets_through(self, now: float) -> bool:
        self._tokens = min(self.rate, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass
class Herd:
    """How a burst went: the callers that gave up, the share of the limit used, refused calls per caller."""

    gave_up: int
    goodput: float
    refused: float


def burst(limit: Limit, retry_after: float | None, seconds: float) -> Herd:
    policy = retries.retry_429(seconds)
    refusal = RateLimited("HTTP 429", status_code=429)
    refusal.retry_after = retry_after
    starts = [random.uniform(0, 0.5) for _ in range(CALLERS)]
    calls = [(start, caller, 1) for caller, start in enumerate(starts)]  # at, by whom, attempt
    heapq.heapify(calls)
    gave_up = refused = 0
    last = 0.0
    while calls:
        now, caller, attempt = heapq.heappop(calls)
        if limit.lets_through(now):
            last = now
            continue
        refused += 1
        state = tenacity.RetryCallState(tenacity.Retrying(**policy), None, (), {})
        state.attempt_number = attempt
        state.start_time, state.outcome_timestamp = starts[caller], now + ROUND_TRIP
        state.outcome = tenacity.Future.construct(attempt, refusal, True)
        assert policy["retry"](state)
        state.upcoming_sleep = policy["wait"](state)
        assert state.upcoming_sleep >= (retry_after or 0)
        if policy["stop"](state):
            gave_up += 1
        else:
            heapq.heappush(calls, (now + ROUND_TRIP + state.upcoming_sleep, caller, attempt + 1))
    return Herd(gave_up, (CALLERS - gave_up) / limit.rate / (last or 1), refused / CALLERS)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    random.seed(20261126)


@pytest.mark.parametrize("limit", [Window, SlidingWindow, Bucket])
@pytest.mark.parametrize("retry_after", [None, 1.0])
@pytest.mark.parametrize("rate", [4, 2, 1])
def test_a_burst_of_paid_calls_gets_through_and_uses_the_limit(
    rate: int, retry_after: float | None, limit: Callable[[int], Limit]
) -> None:
    herds = [burst(limit(rate), retry_after, retries.RETRY_429_SECONDS) for _ in range(RUNS)]
    assert sum(herd.gave_up for herd in herds) == 0
    assert min(herd.goodput for herd in herds) >= 0.8
    # Not by hammering: nobody asks more often than once in three quarters of a second on average.
    assert statistics.mean(herd.refused for herd in herds) < CALLERS / rate / 0.75


@dataclass
class Closed:
    """Nothing gets through before this time; afterwards everything."""

    until: float
    rate: int = 1

    def lets_through(self, now: float) -> bool:
        return now > self.until


def test_a_limit_that_opens_after_some_minutes_lets_all_through_and_was_asked_ever_less_often() -> None:
    one_minute, five_minutes = burst(Closed(60), None, 600), burst(Closed(300), None, 600)
    assert one_minute.gave_up == five_minutes.gave_up == 0
    assert five_minutes.refused < 3 * one_minute.refused


def test_a_limit_that_stays_closed_ends_every_caller_in_time() -> None:
    assert burst(Closed(61), None, 60).gave_up == CALLERS


def test_a_server_that_asks_for_more_time_than_there_is_ends_the_call_at_once() -> None:
    herd = burst(Closed(10), 61, 60)
    assert (herd.gave_up, herd.refused) == (CALLERS, 1)
