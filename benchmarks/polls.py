"""CPU of the client's process for one poll: GET, JSON, a checked model."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from itertools import product

from .harness import Goal, Options, Sample, fresh, goal_table, interleaved
from .peers import ANTHROPIC, HTTP, PEERS, SDK_ASYNC, US
from .standin import standin
from .table import Table

IN_FLIGHT = (1, 100, 1000, 5000)
LATENCIES = (0.0, 0.1)  # seconds
LEAST_POLLS = 20
MOST = {SDK_ASYNC: 1000}  # in flight; with more, hardly a poll comes to its end

Cost = dict[tuple[bool, float, int, str], Sample]  # TLS, latency, in flight, peer: microseconds


def run(options: Options) -> list[Table]:
    with standin(latency=LATENCIES[0]) as quick, standin(latency=LATENCIES[1]) as slow:
        servers = dict(zip(LATENCIES, (quick, slow), strict=True))
        places = list(product((False, True), LATENCIES, IN_FLIGHT))
        if options.quick:
            places = [(False, 0.0, 100), (True, 0.1, 100)]
        cases = {
            (tls, latency, in_flight, peer): partial(
                fresh,
                measure,
                environment=servers[latency].trusted,
                peer=peer,
                url=servers[latency].url(tls=tls),
                in_flight=in_flight,
                seconds=0.3 if options.quick else 0.7,
            )
            for tls, latency, in_flight in places
            for peer in PEERS
            if in_flight <= MOST.get(peer, in_flight)
        }
        found = interleaved(cases, rounds=1 if options.quick else 3)
    cost = {case: samples["cpu"] for case, samples in found.items()}
    return [*(table(cost, tls, latency) for tls, latency in product((False, True), LATENCIES)), goals(cost)]


def table(cost: Cost, tls: bool, latency: float) -> Table:
    def cell(peer: str, in_flight: int) -> str:
        theirs, own = cost.get((tls, latency, in_flight, peer)), cost.get((tls, latency, in_flight, US))
        return theirs.beside(own) if theirs and own else "–"

    title = f"CPU µs a poll, {place_name(tls, latency)}"
    rows = [(peer, *(cell(peer, in_flight) for in_flight in IN_FLIGHT)) for peer in PEERS]
    return Table(title, ["", *(f"{in_flight:,} in flight" for in_flight in IN_FLIGHT)], rows)


def goals(cost: Cost) -> Table:
    def ratio(peer: str, *, tls: bool = False) -> Sample | None:
        own, theirs = cost.get((tls, 0.0, 100, US)), cost.get((tls, 0.0, 100, peer))
        return own.over(theirs) if own and theirs else None

    def growth(tls: bool, latency: float) -> Sample | None:
        many, few = cost.get((tls, latency, 5000, US)), cost.get((tls, latency, 100, US))
        return many.over(few) if many and few else None

    return goal_table(
        [
            Goal("100 in flight, × the SDK's async get", 0.25, ratio(SDK_ASYNC)),
            Goal("100 in flight, × the anthropic provider", 0.45, ratio(ANTHROPIC)),
            Goal("100 in flight, × HttpTrigger", 1.0, ratio(HTTP)),
            Goal("100 in flight, TLS, × HttpTrigger", 0.7, ratio(HTTP, tls=True)),
            *(
                Goal(f"5,000 in flight, × 100 ({place_name(*place)})", 1.2, growth(*place))
                for place in product((False, True), LATENCIES)
            ),
        ]
    )


def place_name(tls: bool, latency: float) -> str:
    return f"{'TLS' if tls else 'plain HTTP'}, {latency * 1000:.0f} ms of server latency"


async def measure(peer: str, url: str, in_flight: int, seconds: float) -> dict[str, float] | None:
    """:returns: ``cpu`` in microseconds for one poll, once everybody is connected; None if nothing ends."""
    done = 0

    async def keep_polling(job_id: str) -> None:
        nonlocal done
        poll = watch(job_id)
        while True:
            await poll()
            done += 1

    async def until(polls: int, least: float, most: float) -> None:
        began = time.monotonic()
        while (waited := time.monotonic() - began) < least or (done < polls and waited < most):
            await asyncio.sleep(0.01)

    async with PEERS[peer](url) as watch:
        tasks = [asyncio.create_task(keep_polling(f"job-{number}")) for number in range(in_flight)]
        await until(max(in_flight, LEAST_POLLS), 0, 8)
        polls, cpu = done, time.process_time()
        await until(polls + LEAST_POLLS, seconds, 8)
        used, made = time.process_time() - cpu, done - polls
        for task in tasks:
            if task.done():  # it never ends by itself
                task.result()
        return {"cpu": used / made * 1e6} if made else None
