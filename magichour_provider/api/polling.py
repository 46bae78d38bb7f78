"""
When to look at a job next: pure arithmetic, in seconds.

A job is looked at first when it may just be done, then at a beat that is slow while few have ended and
quicker around the usual render time. Both follow the median of what this process has seen end on the
connection. Over medians from 20 s to 20 min this asks less often than the vendor's own advice (3 s, times
1.5, up to 30 s) and finds the end sooner: ``make bench ROW=looks``.
"""

from __future__ import annotations

import random
import statistics
from collections import deque
from dataclasses import dataclass, field

from magichour_provider.api.jobs import JobType

# Vendor, talking photos, queueing included, 30 days to 2026-07-20.
MEDIAN_RENDER_SECONDS = 174.0
# The vendor says nothing of voices: a guess, with which looks are 6 to 9 s apart, as it advises for videos.
MEDIAN_VOICE_SECONDS = 10.0
VENDORS_WEIGHT = 5  # as many renders does the vendor's figure count for
LATEST = 51  # renders that the median is taken of

JITTER = 0.1
REST_SECONDS = 5.0  # after a 429 that does not say for how long


class RenderTimes:
    """How long jobs of one kind usually take on one connection: the median of the latest."""

    def __init__(self, median_seconds: float) -> None:
        self.median_seconds = median_seconds
        self._latest = deque([median_seconds] * VENDORS_WEIGHT, maxlen=LATEST)

    def record_end(self, *, after: float, before: float) -> None:
        """A render was still going on at the one age, in seconds, and complete at the other."""
        self._latest.append((after + before) / 2)
        self.median_seconds = statistics.median(self._latest)


class PollLimiter:
    """
    What all waits on one connection share: how long renders usually take, and when the API may be asked.

    :param requests_per_second: at most so many looks, evenly spread; None is no limit.
    """

    def __init__(
        self, requests_per_second: float | None = None, *, median_seconds: float = MEDIAN_RENDER_SECONDS
    ) -> None:
        self.requests_per_second = requests_per_second
        self.renders: dict[JobType, RenderTimes] = {
            "video": RenderTimes(median_seconds),
            "audio": RenderTimes(MEDIAN_VOICE_SECONDS),
        }
        self._next_turn = 0.0
        self._rests_until = 0.0
        self._spread = 0.0

    def pause(self, now: float, seconds: float) -> None:
        """The API has had too many requests: nobody asks it anything for so long (0: it did not say)."""
        seconds = seconds or REST_SECONDS
        if now + seconds > self._rests_until:
            self._rests_until, self._spread = now + seconds, seconds

    def reserve_slot(self, now: float) -> float:
        """Take the next turn to ask: seconds until then. Whoever has waited asks ``resting`` once more."""
        resting = self.pause_left(now)
        if not self.requests_per_second:
            return resting
        turn = max(now + resting, self._next_turn)
        self._next_turn = turn + 1 / self.requests_per_second
        return turn - now

    def pause_left(self, now: float) -> float:
        """Seconds to wait because of a 429; spread, so that not everybody comes back in the same instant."""
        left = self._rests_until - now
        return left + self._spread * JITTER * random.random() if left > 0 else 0.0  # noqa: S311 - no secret


@dataclass(frozen=True, slots=True)
class PollSchedule:
    """
    The looks at one job; ages in seconds since it was submitted.

    :param poll_interval: look every so many seconds instead.
    """

    poll_interval: float | None = None
    limiter: PollLimiter = field(default_factory=PollLimiter)
    job_type: JobType = "video"

    @property
    def renders(self) -> RenderTimes:
        return self.limiter.renders[self.job_type]

    def first_poll(self, age: float) -> float:
        """
        Seconds until the first look.

        Whoever comes late, since the triggerer was started again, does not know when the last one was, and so
        comes at any moment of the beat: or else all would look in the same instant.
        """
        first = self.poll_interval
        if first is None:
            first = 1.6 * self.renders.median_seconds**0.72
        if age < first:
            return _jittered(first) - age
        return random.random() * self.next_poll(age)  # noqa: S311 - no secret

    def next_poll(self, age: float) -> float:
        """Seconds until the look after this one; jittered, so that a burst of tasks does not look in step."""
        if self.poll_interval is not None:
            return _jittered(self.poll_interval)
        median = self.renders.median_seconds
        beat = 25.0 * (median / (median + 160)) ** 0.5
        return _jittered(beat * (1 + max(0.0, 1 - age / (0.7 * median))))


def _jittered(seconds: float) -> float:
    return seconds * (1 + JITTER * (2 * random.random() - 1))  # noqa: S311 - no secret
