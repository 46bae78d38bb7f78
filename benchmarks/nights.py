"""
Whole nights of jobs with clips of different lengths: what a process has to learn, and how much that costs.

The provider's own waits run in virtual time, beside waits that know the median of each job's render time.
Half way through, the load changes. Later the triggerer is restarted, and what was learned is gone. The shapes
here are not those with which the schedule was tuned.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from magichour_provider.api import flows, models
from magichour_provider.api.polling import PollSchedule, RateLimiter, RenderTimes

from .harness import Goal, Options, Sample, goal_table
from .table import Table

START = 1e9  # seconds since the epoch
JOBS = 400
HOURS = 6
RESTART = 0.7  # of the night
AT_MOST = {"polls": 1.3, "mean lag": 1.2}

# The length of a clip, in seconds.
CLIPS: dict[str, Callable[[random.Random], float]] = {
    "5 s and 300 s": lambda chance: chance.choice((5.0, 300.0)),
    "around 20 s": lambda chance: min(300.0, max(2.0, chance.lognormvariate(3.0, 0.9))),
}
# The median render time of a clip, in seconds.
MEDIANS: dict[str, Callable[[float], float]] = {
    "12 s + 1.5 × clip": lambda clip: 12 + 1.5 * clip,
    "25 s × clip^0.6": lambda clip: 25 * clip**0.6,
}
# A render time, as a multiple of its median.
NOISES: dict[str, Callable[[random.Random], float]] = {
    "lognormal, σ 0.4": lambda chance: chance.lognormvariate(0, 0.4),
    "Weibull, k 2": lambda chance: chance.weibullvariate(1, 2) / math.sqrt(math.log(2)),
    "a tenth three times as long": lambda chance: (
        chance.lognormvariate(0, 0.25) * (3 if chance.random() < 0.1 else 1)
    ),
}
# What all render times are multiplied by, at a share of the night.
LOADS: dict[str, Callable[[float], float]] = {
    "steady": lambda _: 1.0,
    "×2 at half time": lambda share: 2.0 if share > 0.5 else 1.0,
    "×½ at half time": lambda share: 0.5 if share > 0.5 else 1.0,
    "a wave": lambda share: 2 ** math.sin(2 * math.pi * share),
}
# When jobs are submitted, as shares of the night.
ARRIVALS: dict[str, Callable[[random.Random], list[float]]] = {
    "one by one": lambda chance: sorted(chance.random() for _ in range(JOBS)),
    "16 bursts": lambda chance: sorted(
        (burst + 0.01 * chance.random()) / 16 for burst in range(16) for _ in range(JOBS // 16)
    ),
}


@dataclass(frozen=True)
class Job:
    """Times in seconds."""

    submitted_at: float
    clip: float
    median: float
    seconds: float

    def at(self, now: float) -> models.Job:
        ended = now - self.submitted_at >= self.seconds
        downloads = (models.Download.model_construct(url="https://storage.example/a.mp4"),) if ended else ()
        return models.Job.model_construct(
            job_id="job", status="complete" if ended else "rendering", downloads=downloads
        )


class Knowing(RenderTimes):
    """Of one job: its median."""

    def __init__(self, median: float) -> None:
        super().__init__()
        self._median = median

    def usual(self, *_: Any) -> float:
        return self._median


def jobs_of(clips: str, median: str, noise: str, load: str, arrivals: str, seed: int) -> list[Job]:
    chance = random.Random(seed)  # noqa: S311
    jobs = []
    for share in ARRIVALS[arrivals](chance):
        clip = CLIPS[clips](chance)
        usual = MEDIANS[median](clip) * LOADS[load](share)
        jobs.append(Job(START + share * HOURS * 3600, clip, usual, usual * NOISES[noise](chance)))
    return jobs


@dataclass
class Night:
    polls: int = 0
    lag: float = 0.0

    @classmethod
    def of(cls, jobs: list[Job], *, knowing: bool) -> Night:
        """All jobs, each waited for until its end has been seen."""
        night = cls()
        events: list[tuple[float, int, Callable[[], Iterator[float]]]] = []  # when, number, what
        renders, limiter, now = RenderTimes(), RateLimiter(), START
        waits: dict[int, Any] = {}

        def begin(number: int) -> Iterator[float]:
            job = jobs[number]
            schedule = PollSchedule(
                clip_seconds=job.clip, renders=Knowing(job.median) if knowing else renders
            )
            waits[number] = flow = flows.wait(
                "job",
                deadline=math.inf,
                schedule=schedule,
                limiter=limiter,
                submitted_at=job.submitted_at,
                clock=lambda: now,
            )
            outcome: object = None
            while waits.get(number) is flow:  # or else the triggerer was restarted
                try:
                    step = flow.send(outcome)
                except StopIteration:
                    night.lag += now - job.submitted_at - job.seconds
                    del waits[number]
                    return
                if isinstance(step, flows.Sleep):
                    outcome = None
                    yield now + step.seconds
                else:
                    night.polls += 1
                    outcome = job.at(now)

        def restart() -> Iterator[float]:
            nonlocal renders, order
            renders = RenderTimes()
            for number in list(waits):
                order += 1
                heapq.heappush(events, (now, order, begin(number).__next__))
            yield from ()

        order = len(jobs)
        for number, job in enumerate(jobs):
            events.append((job.submitted_at, number, begin(number).__next__))
        events.append((START + RESTART * HOURS * 3600, order, restart().__next__))
        heapq.heapify(events)
        while events:
            now, _, resume = heapq.heappop(events)
            order += 1
            try:
                heapq.heappush(events, (resume(), order, resume))
            except StopIteration:
                continue
        return night


def run(options: Options) -> list[Table]:
    random.seed(0)
    seeds = range(1 if options.quick else 3)
    found: dict[tuple[str, str, str], dict[str, list[Sample]]] = {}
    for clips, arrivals, load, median, noise in product(CLIPS, ARRIVALS, LOADS, MEDIANS, NOISES):
        ratios = []
        for seed in seeds:
            jobs = jobs_of(clips, median, noise, load, arrivals, seed)
            ours, best = Night.of(jobs, knowing=False), Night.of(jobs, knowing=True)
            ratios.append((ours.polls / best.polls, ours.lag / best.lag))
        night = found.setdefault((clips, arrivals, load), {what: [] for what in AT_MOST})
        for what, values in zip(night, zip(*ratios, strict=True), strict=True):
            night[what].append(Sample(values))
    rows = [
        (
            *night,
            *(f"{mean(samples[what]):.2f}, at worst {worst(samples[what]).median:.2f}" for what in AT_MOST),
        )
        for night, samples in found.items()
    ]
    goals = [
        Goal(
            f"{what}, {arrivals}",
            limit,
            worst([one for key, kinds in found.items() if key[1] == arrivals for one in kinds[what]]),
        )
        for arrivals in ARRIVALS
        for what, limit in AT_MOST.items()
    ]
    title = f"Nights of {JOBS} jobs, × a schedule that knew the median of each"
    return [
        Table(
            title,
            ["clips", "submitted", "load", *AT_MOST],
            rows,
            [f"Over {len(MEDIANS)} × {len(NOISES)} render times: the mean, and the worst."],
        ),
        goal_table(goals),
    ]


def mean(samples: list[Sample]) -> float:
    return sum(sample.median for sample in samples) / len(samples)


def worst(samples: list[Sample]) -> Sample:
    return max(samples, key=lambda sample: sample.median)
