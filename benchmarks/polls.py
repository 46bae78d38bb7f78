"""CPU of the client's process for one poll: GET, JSON, a checked model."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from functools import partial
from itertools import product

from .harness import Goal, Options, Sample, fresh, goal_table, interleaved
from .peers import AIOHTTP, ANTHROPIC, HTTP, PEERS, SDK_ASYNC, SDK_THREADS, US
from .standin import standin
from .table import Table

IN_FLIGHT = (1, 100, 1000, 5000)
PLAIN, TLS, FAR, FAR_TLS = (False, 0.0), (True, 0.0), (False, 0.1), (True, 0.1)  # TLS, seconds of latency
PLACES = {PLAIN: IN_FLIGHT, TLS: IN_FLIGHT, FAR: IN_FLIGHT, FAR_TLS: (1000,)}
LEAST_POLLS = 20
SECONDS = 0.5  # at least
PATIENCE = 5.0  # seconds, for everybody's first poll, and for enough of them

Place = tuple[bool, float]
Cost = dict[tuple[bool, float, int, str], Sample]  # place, in flight, peer: microseconds


def run(options: Options) -> list[Table]:
    places = {PLAIN: (100,), FAR_TLS: (100,)} if options.quick else PLACES
    with standin() as near, standin(latency=FAR[1]) as far:
        cases = {}
        for (tls, latency), numbers in places.items():
            server = far if latency else near
            for in_flight, peer in product(numbers, PEERS):
                if is_worth_it(peer, (tls, latency), in_flight):
                    how = {"peer": peer, "url": server.url(tls=tls), "in_flight": in_flight}
                    case = partial(fresh, measure, environment=server.trusted, **how)
                    cases[tls, latency, in_flight, peer] = case
        found = interleaved(cases, rounds=1 if options.quick else 3)
    cost = {case: samples["cpu"] for case, samples in found.items()}
    return [*(table(cost, place, numbers) for place, numbers in places.items()), goals(cost)]


def is_worth_it(peer: str, place: Place, in_flight: int) -> bool:
    """Would it tell something new, and within this night?"""
    if peer in (SDK_THREADS, ANTHROPIC):  # never more in flight than there are threads
        return in_flight == 100
    if peer == SDK_ASYNC:  # its pool gets slower with each that waits: to be seen in one place
        return in_flight == 100 or place == FAR_TLS
    if peer == HTTP:  # a socket for each
        return in_flight in (100, 1000)
    return True


def table(cost: Cost, place: Place, numbers: tuple[int, ...]) -> Table:
    def cell(peer: str, in_flight: int) -> str:
        theirs, own = cost.get((*place, in_flight, peer)), cost.get((*place, in_flight, US))
        return theirs.beside(own) if theirs and own else "–"

    rows = [(peer, *(cell(peer, in_flight) for in_flight in numbers)) for peer in PEERS]
    columns = ["", *(f"{in_flight:,} in flight" for in_flight in numbers)]
    return Table(f"CPU µs a poll, {name_of(place)}", columns, rows)


def name_of(place: Place) -> str:
    tls, latency = place
    return f"{'TLS' if tls else 'plain HTTP'}, {latency * 1000:.0f} ms of server latency"


def goals(cost: Cost) -> Table:
    def ratio(peer: str, place: Place = PLAIN) -> Sample | None:
        own, theirs = cost.get((*place, 100, US)), cost.get((*place, 100, peer))
        return own.over(theirs) if own and theirs else None

    def growth(place: Place) -> Sample | None:
        many, few = cost.get((*place, 5000, US)), cost.get((*place, 100, US))
        return many.over(few) if many and few else None

    return goal_table(
        [
            Goal("100 in flight, × aiohttp", 3, ratio(AIOHTTP)),
            Goal("100 in flight, × the SDK's async get", 0.12, ratio(SDK_ASYNC)),
            Goal("100 in flight, × the anthropic provider", 0.30, ratio(ANTHROPIC)),
            Goal("100 in flight, × HttpTrigger", 0.55, ratio(HTTP)),
            Goal("100 in flight, TLS, × HttpTrigger", 0.55, ratio(HTTP, TLS)),
            *(
                Goal(f"5,000 in flight, × 100, {name_of(place)}", 1.2, growth(place))
                for place in (PLAIN, TLS, FAR)
            ),
        ]
    )


async def measure(peer: str, url: str, in_flight: int) -> dict[str, float] | None:
    """:returns: ``cpu`` in µs for one poll, once everybody is connected; None if hardly one ends."""
    done, enough = 0, 0
    reached = asyncio.Event()

    async def keep_polling(job_id: str) -> None:
        nonlocal done
        poll = watch(job_id)
        while True:
            await poll()
            done += 1
            if done == enough:
                reached.set()

    async def more(polls: int, seconds: float) -> None:
        """Nothing of ours runs meanwhile."""
        nonlocal enough
        enough = done + polls
        reached.clear()
        await asyncio.sleep(seconds)
        with suppress(TimeoutError):
            await asyncio.wait_for(reached.wait(), PATIENCE)

    async with PEERS[peer](url) as watch:
        tasks = [asyncio.create_task(keep_polling(f"job-{number}")) for number in range(in_flight)]
        await more(max(LEAST_POLLS, in_flight), 0)
        polls, cpu = done, time.process_time()
        # They may all do the same at the same time, all connect, say: so whole rounds of them.
        await more(max(LEAST_POLLS, 3 * in_flight), SECONDS)
        used, made = time.process_time() - cpu, done - polls
        for task in tasks:
            if task.done():  # it never ends by itself
                task.result()
        return {"cpu": used / made * 1e6} if made >= LEAST_POLLS else None
