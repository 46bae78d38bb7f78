"""
When to look at a job next: pure arithmetic, in seconds.

A job is looked at first when it may just be done, then at an even beat. Both are shares of the usual render
time: for lognormal render times around the vendor's median this asks a third less often than the vendor's own
advice (3 s, times 1.5, up to 30 s), and finds the end a quarter sooner.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

# Vendor, talking photos, queueing included, 30 days to 2026-07-20.
MEDIAN_RENDER_SECONDS = 174.0

FIRST_LOOK = 50 / MEDIAN_RENDER_SECONDS
BEAT = 22 / MEDIAN_RENDER_SECONDS
JITTER = 0.1


@dataclass(frozen=True)
class Schedule:
    """
    :param poll_interval: look every so many seconds instead.
    :param median_seconds: how long a render usually takes.
    """

    poll_interval: float | None = None
    median_seconds: float = MEDIAN_RENDER_SECONDS

    def next_look(self, age: float, *, jitter: Callable[[], float] = random.random) -> float:
        """
        Seconds until the next look at a job that was submitted ``age`` seconds ago.

        Jittered, so that a burst of mapped tasks does not look in step.
        """
        if self.poll_interval is not None:
            wait = self.poll_interval
        else:
            beat = BEAT * self.median_seconds
            wait = max(FIRST_LOOK * self.median_seconds - age, beat)
        return wait * (1 + JITTER * (2 * jitter() - 1))
