"""The longest time for which the event loop does nothing else, while many triggers look at once."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from .harness import Goal, Options, fresh, goal_table, interleaved
from .peers import AIOHTTP, ANTHROPIC, HTTP, RAW, SDK_ASYNC, SDK_THREADS, US, waiting
from .standin import standin
from .table import Table

TRIGGERS = 1000
FEW = 100  # of what makes a client for each trigger
LOOKS = 3
INTERVAL = 1.0  # seconds between the looks of one trigger
TICK = 0.005


def run(options: Options) -> list[Table]:
    triggers = FEW if options.quick else TRIGGERS
    with standin(looks=LOOKS) as server:
        cases = {
            peer: partial(
                fresh,
                measure,
                environment=server.trusted,
                peer=peer,
                url=server.plain_url,
                triggers=min(triggers, FEW) if peer == ANTHROPIC else triggers,
            )
            for peer in (US, HTTP, SDK_THREADS, SDK_ASYNC, ANTHROPIC, AIOHTTP, RAW)
        }
        found = interleaved(cases, rounds=1 if options.quick else 3)
    stalls = {peer: samples["stall"] for peer, samples in found.items()}
    rows = [
        (peer, stall.beside(stalls[US]), found[peer]["cpu"].show(), found[peer]["seconds"].show(1))
        for peer, stall in stalls.items()
    ]
    return [
        Table(
            f"Longest stall of the loop in ms, {triggers:,} triggers × {LOOKS} looks, all beginning at once",
            ["", "stall", "CPU of the loop between two ticks", "seconds in all"],
            rows,
            [f"The {ANTHROPIC}'s trigger makes a client for each job: measured with {FEW} of them."],
        ),
        goal_table([Goal("ms", 50, stalls[US], digits=0)]),
    ]


async def measure(peer: str, url: str, triggers: int) -> dict[str, float]:
    """
    :returns: the longest ``stall`` in ms; the most ``cpu`` of the loop's thread between two ticks, in ms; and
        the ``seconds`` until all jobs have ended.
    """
    stall = cpu = 0.0

    async def tick() -> None:
        nonlocal stall, cpu
        while True:
            began, used = time.perf_counter(), time.thread_time()
            await asyncio.sleep(TICK)
            stall = max(stall, time.perf_counter() - began - TICK)
            cpu = max(cpu, time.thread_time() - used)

    async with waiting(peer, url) as wait:
        await wait("first", TICK)  # imports what is imported late
        ticking = asyncio.create_task(tick())
        began = time.perf_counter()
        await asyncio.gather(*(wait(f"job-{number}-{began}", INTERVAL) for number in range(triggers)))
        seconds = time.perf_counter() - began
        ticking.cancel()
    return {"stall": stall * 1000, "cpu": cpu * 1000, "seconds": seconds}
