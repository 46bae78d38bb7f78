"""How often a schedule looks, and how late it sees the end: simulated, no clock and no socket."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import product

from magichour_provider.schedule import MEDIAN_RENDER_SECONDS, Schedule

from .harness import Goal, Options, Sample, goal_table
from .table import Table

MEDIANS = (20, 60, 120, MEDIAN_RENDER_SECONDS, 400, 700, 1200)  # seconds
JOBS = 1000
MEASURES = ("polls", "mean lag", "p95 lag")
AT_MOST = 0.85

Ages = Iterator[float]  # at which a job is looked at, in seconds since it was submitted
Policy = Callable[[float], Ages]  # given the usual render time
Shape = Callable[[random.Random], float]  # a render time, as a multiple of something


def every(seconds: float) -> Ages:
    age = 0.0
    while True:
        yield age
        age += seconds


def vendors_advice() -> Ages:
    """At once, then after 3 s, and after half as long again each time, up to 30 s."""
    age, wait = 0.0, 3.0
    while True:
        yield age
        age += wait
        wait = min(wait * 1.5, 30.0)


def ours(median: float) -> Ages:
    schedule = Schedule(median_seconds=median)
    age = 0.0
    while True:
        age += schedule.next_look(age)
        yield age


US, UNTAUGHT, ADVICE = "ours, render time known", "ours, before it has learned", "the vendor's advice"
POLICIES: dict[str, Policy] = {
    US: ours,
    UNTAUGHT: lambda _: ours(MEDIAN_RENDER_SECONDS),
    ADVICE: lambda _: vendors_advice(),
    "every 5 s": lambda _: every(5),
    "the SDK, every 0.5 s": lambda _: every(0.5),
}


def two_queues(chance: random.Random) -> float:
    """A third of the jobs waits in a queue first, for twice as long as a render."""
    return chance.lognormvariate(0, 0.3) + (2.0 if chance.random() < 1 / 3 else 0.0)


SHAPES: dict[str, Shape] = {
    "lognormal, σ 0.3": lambda chance: chance.lognormvariate(0, 0.3),
    "lognormal, σ 0.5": lambda chance: chance.lognormvariate(0, 0.5),
    "lognormal, σ 0.8": lambda chance: chance.lognormvariate(0, 0.8),
    "gamma, k 3": lambda chance: chance.gammavariate(3, 1),
    "two peaks, a queue": two_queues,
    "uniform": lambda chance: chance.uniform(0.5, 1.5),
}
USUAL = "lognormal, σ 0.5"


def render_times(shape: Shape, median: float, jobs: int, seed: int) -> list[float]:
    """Seconds, with exactly this median."""
    chance = random.Random(seed)  # noqa: S311
    drawn = [shape(chance) for _ in range(jobs)]
    scale = median / statistics.median(drawn)
    return [one * scale for one in drawn]


def simulate(ages: Callable[[], Ages], times: Sequence[float]) -> dict[str, float]:
    """Each job is looked at until it has ended."""
    polls, lags = 0, []
    for time in times:
        for number, age in enumerate(ages(), 1):
            if age >= time:
                polls += number
                lags.append(age - time)
                break
    return {
        "polls": polls / len(times),
        "mean lag": statistics.fmean(lags),
        "p95 lag": statistics.quantiles(lags, n=20)[-1],
    }


Found = dict[tuple[str, float, str], dict[str, Sample]]  # shape, median, policy


def run(options: Options) -> list[Table]:
    random.seed(0)
    found: Found = {}
    for (shape, draw), median in product(SHAPES.items(), MEDIANS):
        drawn = [render_times(draw, median, JOBS, seed) for seed in range(1 if options.quick else 3)]
        for name, policy in POLICIES.items():
            rounds = [simulate(lambda: policy(median), times) for times in drawn]  # noqa: B023
            found[shape, median, name] = {
                what: Sample(tuple(one[what] for one in rounds)) for what in MEASURES
            }
    return [costs(found), *(ratios(found, policy) for policy in (US, UNTAUGHT)), goals(found)]


def costs(found: Found) -> Table:
    def cell(median: float, policy: str) -> str:
        return " / ".join(f"{found[USUAL, median, policy][what].median:.1f}" for what in MEASURES)

    rows = [(f"{median:g} s", *(cell(median, policy) for policy in POLICIES)) for median in MEDIANS]
    return Table(f"Looks / mean lag / p95 lag in s, {USUAL}", ["median", *POLICIES], rows)


def ratios(found: Found, policy: str) -> Table:
    def cell(shape: str, median: float) -> str:
        ours, theirs = found[shape, median, policy], found[shape, median, ADVICE]
        return " / ".join(f"{ours[what].over(theirs[what]).median:.2f}" for what in MEASURES)

    rows = [(shape, *(cell(shape, median) for median in MEDIANS)) for shape in SHAPES]
    return Table(
        f"{policy.capitalize()}: looks / mean lag / p95 lag, × the vendor's advice",
        ["", *(f"median {median:g} s" for median in MEDIANS)],
        rows,
    )


def goals(found: Found) -> Table:
    """The worst of all medians and shapes; one that is reached everywhere is reached."""

    def worst(what: str) -> tuple[Sample, str]:
        places = list(product(SHAPES, MEDIANS))
        over = {place: found[*place, US][what].over(found[*place, ADVICE][what]) for place in places}
        place = max(places, key=lambda one: over[one].median)
        missed = sum(ratio.median > AT_MOST for ratio in over.values())
        return over[place], f"worst at {place[0]}, {place[1]:g} s; missed at {missed} of {len(places)}"

    found_worst = [(what, *worst(what)) for what in MEASURES]
    return goal_table(
        [
            Goal(f"{what}, × the vendor's advice ({where})", AT_MOST, sample)
            for what, sample, where in found_worst
        ]
    )
