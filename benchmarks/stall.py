"""The longest time for which the event loop does nothing else, while many triggers poll at once."""

from __future__ import annotations

import asyncio
import gc
import time
from functools import partial

from .harness import Goal, Options, fresh, goal_table, interleaved
from .peers import AIOHTTP, ANTHROPIC, HTTP, RAW, SDK_ASYNC, SDK_THREADS, US, waiting
from .standin import standin
from .table import Table

TRIGGERS = 1000
FEW = 100  # of what makes a client for each trigger
MANY = 10_000  # of ours alone: the others would take for ever
POLLS = 3
INTERVAL = 1.0  # seconds between the polls of one trigger
TICK = 0.005


def run(options: Options) -> list[Table]:
    triggers = FEW if options.quick else TRIGGERS
    peers = {peer: (peer, triggers) for peer in (US, HTTP, SDK_THREADS, SDK_ASYNC, ANTHROPIC, AIOHTTP, RAW)}
    peers[ANTHROPIC] = (ANTHROPIC, FEW)
    if not options.quick:
        peers[f"{US}, {MANY:,} triggers"] = (US, MANY)
    with standin(polls=POLLS) as server:
        cases = {
            name: partial(
                fresh,
                measure,
                environment=server.trusted,
                peer=peer,
                url=server.plain_url,
                triggers=number,
            )
            for name, (peer, number) in peers.items()
        }
        found = interleaved(cases, rounds=1 if options.quick else 3)
    us = found[US]
    rows = [
        (
            peer,
            samples["stall"].beside(us["stall"]),
            samples["uncollected"].beside(us["uncollected"]),
            samples["seconds"].show(1),
        )
        for peer, samples in found.items()
    ]
    return [
        Table(
            f"Longest stall of the loop in ms, {triggers:,} triggers × {POLLS} polls, all beginning at once",
            ["", "stall", "less garbage collection", "seconds in all"],
            rows,
            [f"The {ANTHROPIC}'s trigger makes a client for each job: measured with {FEW} of them."],
        ),
        goal_table(
            [
                Goal("ms", 50, us["stall"], digits=0),
                Goal("ms, less garbage collection", 50, us["uncollected"], digits=0),
            ]
        ),
    ]


async def measure(peer: str, url: str, triggers: int) -> dict[str, float]:
    """
    :returns: the longest ``stall`` in ms, and the longest ``uncollected``, less what Python's garbage
        collection took of it; the ``seconds`` until all jobs have ended.
    """
    stall = uncollected = collecting = since = 0.0

    def note(phase: str, _: object) -> None:
        nonlocal collecting, since
        if phase == "start":
            since = time.perf_counter()
        else:
            collecting += time.perf_counter() - since

    async def tick() -> None:
        nonlocal stall, uncollected
        while True:
            began, before = time.perf_counter(), collecting
            await asyncio.sleep(TICK)
            late = time.perf_counter() - began - TICK
            stall, uncollected = max(stall, late), max(uncollected, late - (collecting - before))

    async with waiting(peer, url) as wait:
        await wait("first", TICK)  # imports what is imported late
        gc.collect()  # what was left over by imports is nobody's fault
        gc.callbacks.append(note)
        ticking = asyncio.create_task(tick())
        began = time.perf_counter()
        await asyncio.gather(*(wait(f"job-{number}-{began}", INTERVAL) for number in range(triggers)))
        seconds = time.perf_counter() - began
        ticking.cancel()
    return {"stall": stall * 1000, "uncollected": uncollected * 1000, "seconds": seconds}
