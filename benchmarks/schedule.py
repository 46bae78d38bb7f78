"""How often a schedule polls, and how late it sees the end: simulated, without clock or socket."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from magichour_provider.api.jobs import JOBS as JOB_TYPES
from magichour_provider.api.polling import PollSchedule, RenderTimes

from . import nights
from .harness import Goal, Options, Sample, goal_table
from .table import Table

PUBLISHED = JOB_TYPES["video"].usual_render_seconds
MEDIANS = (20, 60, 120, PUBLISHED, 400, 700, 1200)  # seconds
JOBS = 4000
STREAMS = 30  # of jobs one after another, from which a process learns
MEASURES = ("polls", "mean lag", "p95 lag")
AT_MOST = 0.85

Ages = Iterator[float]  # at which a job is polled, in seconds since it was submitted
Policy = Callable[[float], Ages]  # given the usual render time


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


def ours(renders: RenderTimes) -> Ages:
    schedule = PollSchedule(renders=renders)
    age = schedule.first_poll(0)
    while True:
        yield age
        age += schedule.next_poll(age)


def knowing(median: float) -> RenderTimes:
    renders = RenderTimes()
    renders.record_end("video", None, None, after=median, before=median)
    return renders


US, BEGINNER, ADVICE = "this provider", "while it knows nothing", "the vendor's advice"
POLICIES: dict[str, Policy] = {
    US: lambda median: ours(knowing(median)),
    BEGINNER: lambda _: ours(RenderTimes()),
    ADVICE: lambda _: vendors_advice(),
    "every 5 s": lambda _: every(5),
    "the SDK, every 0.5 s": lambda _: every(0.5),
}


def two_peaks(chance: random.Random) -> float:
    """A third of the jobs waits in a queue first, for twice as long as a render."""
    return chance.lognormvariate(0, 0.3) + (2.0 if chance.random() < 1 / 3 else 0.0)


# A render time, as a multiple of whatever makes the median right.
SHAPES: dict[str, Callable[[random.Random], float]] = {
    "lognormal, σ 0.3": lambda chance: chance.lognormvariate(0, 0.3),
    "lognormal, σ 0.5": lambda chance: chance.lognormvariate(0, 0.5),
    "lognormal, σ 0.8": lambda chance: chance.lognormvariate(0, 0.8),
    "gamma, k 3": lambda chance: chance.gammavariate(3, 1),
    "two peaks, a queue": two_peaks,
    "uniform": lambda chance: chance.uniform(0.5, 1.5),
}
USUAL = "lognormal, σ 0.5"


def render_times(shape: str, median: float, jobs: int, seed: int) -> list[float]:
    """Seconds, with exactly this median."""
    chance = random.Random(seed)  # noqa: S311
    drawn = [SHAPES[shape](chance) for _ in range(jobs)]
    scale = median / statistics.median(drawn)
    return [one * scale for one in drawn]


@dataclass(frozen=True)
class Watched:
    """A job that was polled until it had ended; ages in seconds."""

    polls: int
    ended: float
    last_but_one: float  # poll, at which it still went on
    last: float

    @classmethod
    def until(cls, ended: float, ages: Ages) -> Watched:
        before = 0.0
        for number, age in enumerate(ages, 1):
            if age >= ended:
                return cls(number, ended, before, age)
            before = age
        raise AssertionError("nobody polled any more")


def summary(watched: Iterable[Watched]) -> dict[str, float]:
    found = list(watched)
    lags = [one.last - one.ended for one in found]
    return {
        "polls": statistics.fmean(one.polls for one in found),
        "mean lag": statistics.fmean(lags),
        "p95 lag": statistics.quantiles(lags, n=20)[-1],
    }


def least_product(times: Sequence[float]) -> float:
    """
    Polls times mean lag, in seconds, of the best schedule that there can be, which knows how render times are
    distributed: with density f and survival S it polls at a rate of √(f/S), which makes ½ (∫ √(f S) dt)².
    """
    sorted_times, bins = sorted(times), 100
    step = (sorted_times[-1] - sorted_times[0]) / bins
    counts = Counter(min(int((time - sorted_times[0]) / step), bins - 1) for time in sorted_times)
    alive, integral = len(times), 0.0
    for number in range(bins):
        integral += math.sqrt(counts[number] / step * (alive - counts[number] / 2)) * step / len(times)
        alive -= counts[number]
    return integral**2 / 2


def learning(times: Iterable[float]) -> Iterator[Watched]:
    """Jobs one after another in a process that knows nothing at first."""
    renders = RenderTimes()
    for ended in times:
        watched = Watched.until(ended, ours(renders))
        renders.record_end("video", None, None, after=watched.last_but_one, before=watched.last)
        yield watched


Found = dict[tuple[str, float, str], dict[str, Sample]]  # shape, median, policy


def run(options: Options) -> list[Table]:
    random.seed(0)
    seeds = range(1 if options.quick else 3)
    found: Found = {}
    for shape, median in product(SHAPES, MEDIANS):
        drawn = [render_times(shape, median, JOBS, seed) for seed in seeds]
        for name in POLICIES if shape == USUAL else (US, BEGINNER, ADVICE):
            policy = POLICIES[name]
            rounds = [summary(Watched.until(ended, policy(median)) for ended in times) for times in drawn]
            found[shape, median, name] = {
                what: Sample(tuple(one[what] for one in rounds)) for what in MEASURES
            }
    tables = [
        costs(found),
        ratios(found, US),
        ratios(found, BEGINNER),
        limits(found),
        lessons(found),
        goals(found),
    ]
    return [*tables, *nights.run(options)]


def costs(found: Found) -> Table:
    def cell(median: float, policy: str) -> str:
        return " / ".join(f"{found[USUAL, median, policy][what].median:.1f}" for what in MEASURES)

    rows = [(f"{median:g} s", *(cell(median, policy) for policy in POLICIES)) for median in MEDIANS]
    return Table(f"Polls / mean lag / p95 lag in s, {USUAL}", ["median", *POLICIES], rows)


def ratios(found: Found, policy: str) -> Table:
    def cell(shape: str, median: float) -> str:
        over = [
            found[shape, median, policy][what].over(found[shape, median, ADVICE][what]) for what in MEASURES
        ]
        return " / ".join(f"{ratio.median:.2f}" for ratio in over)

    rows = [(shape, *(cell(shape, median) for median in MEDIANS)) for shape in SHAPES]
    columns = ["", *(f"median {median:g} s" for median in MEDIANS)]
    return Table(f"Polls / mean lag / p95 lag, × the vendor's advice: {policy}", columns, rows)


def limits(found: Found) -> Table:
    def cell(shape: str, median: float) -> str:
        advice = {what: found[shape, median, ADVICE][what].median for what in MEASURES}
        least = least_product(render_times(shape, median, 5 * JOBS, seed=0))
        return f"{math.sqrt(least / (advice['polls'] * advice['mean lag'])):.2f}"

    rows = [(shape, *(cell(shape, median) for median in MEDIANS)) for shape in SHAPES]
    columns = ["", *(f"median {median:g} s" for median in MEDIANS)]
    return Table("The least that polls and mean lag can both be, × the vendor's advice", columns, rows)


LESSONS = (range(5), range(5, 10), range(10, 20), range(20, 50))  # jobs that have ended before


def lessons(found: Found) -> Table:
    def cells(median: float) -> Iterator[str]:
        streams = [
            list(learning(render_times(USUAL, median, LESSONS[-1].stop, seed))) for seed in range(STREAMS)
        ]
        advice = found[USUAL, median, ADVICE]
        for jobs in LESSONS:
            mean = summary(stream[number] for stream in streams for number in jobs)
            yield " / ".join(f"{mean[what] / advice[what].median:.2f}" for what in MEASURES)

    rows = [(f"{median:g} s", *cells(median)) for median in MEDIANS]
    columns = ["median", *(f"jobs {jobs.start + 1} to {jobs.stop}" for jobs in LESSONS)]
    return Table(f"While a process learns: the same, {USUAL}", columns, rows)


def goals(found: Found) -> Table:
    """Where it is worst: a goal is reached when it is reached everywhere."""

    def worst(what: str, shapes: Iterable[str], where: str) -> Goal:
        over = {
            place: found[*place, US][what].over(found[*place, ADVICE][what])
            for place in product(shapes, MEDIANS)
        }
        shape, median = max(over, key=lambda place: over[place].median)
        return Goal(f"{what}, {where} (at worst {shape}, {median:g} s)", AT_MOST, over[shape, median])

    asked = [worst(what, [USUAL], "every median") for what in MEASURES]
    asked += [worst(what, SHAPES, "every median and shape") for what in MEASURES]
    table = goal_table(asked)
    table.title += ", × the vendor's advice"
    return table
