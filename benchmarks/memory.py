"""Memory of a trigger that waits, above what Airflow itself needs for one."""

from __future__ import annotations

import asyncio
import gc
import urllib.request
from functools import partial

from .harness import Goal, Options, Sample, fresh, goal_table, interleaved, resident_bytes
from .peers import AIOHTTP, ANTHROPIC, HTTP, IDLE, SDK_THREADS, US, waiting
from .standin import standin
from .table import Table

PLACES = ((False, 1_000), (False, 10_000), (True, 1_000))  # TLS, triggers
FEW = 100  # of what makes a client for each trigger
BATCH = 500  # that begin at once
FOR_EVER = 3600.0  # seconds between two polls
PEERS = (US, HTTP, SDK_THREADS, AIOHTTP, ANTHROPIC)

Kilobytes = dict[tuple[bool, int, str], Sample]  # above an idle trigger; TLS, triggers, peer


def run(options: Options) -> list[Table]:
    places = PLACES[:1] if options.quick else PLACES
    with standin() as server:
        cases = {
            (tls, number, peer): partial(
                fresh,
                measure,
                environment=server.trusted,
                peer=peer,
                url=server.url(tls=tls),
                polls_url=f"{server.plain_url}/polls",
                number=FEW if peer == ANTHROPIC else number,
            )
            for tls, number in places
            for peer in (IDLE, *(PEERS[:2] if options.quick or number > PLACES[0][1] else PEERS))
        }
        found = interleaved(cases, rounds=1 if options.quick else 3)
    whole = {case: samples["kilobytes"] for case, samples in found.items()}
    above = {
        (tls, number, peer): sample.less(whole[tls, number, IDLE])
        for (tls, number, peer), sample in whole.items()
        if peer != IDLE
    }
    return [table(above, whole[*PLACES[0], IDLE]), goals(above)]


def table(above: Kilobytes, idle: Sample) -> Table:
    def cell(peer: str, place: tuple[bool, int]) -> str:
        theirs, own = above.get((*place, peer)), above.get((*place, US))
        return theirs.beside(own, digits=1) if theirs and own else "–"

    return Table(
        "KB a waiting trigger, above an idle one",
        ["", *map(place_name, PLACES)],
        [(peer, *(cell(peer, place) for place in PLACES)) for peer in PEERS],
        [
            f"An idle trigger takes {idle.show(1)} KB.",
            f"The {ANTHROPIC}'s trigger makes a client for each job: measured with {FEW} of them.",
        ],
    )


def place_name(place: tuple[bool, int]) -> str:
    tls, number = place
    return f"{number:,} waiting, {'TLS' if tls else 'plain HTTP'}"


def goals(above: Kilobytes) -> Table:
    asked = []
    for place in PLACES:
        own, theirs = above.get((*place, US)), above.get((*place, HTTP))
        asked.append(Goal(f"KB, {place_name(place)}", 4, own))
        asked.append(
            Goal(f"× {HTTP}, {place_name(place)}", 0.12, own.over(theirs) if own and theirs else None)
        )
    return goal_table(asked)


async def measure(peer: str, url: str, polls_url: str, number: int) -> dict[str, float]:
    """
    :returns: ``kilobytes`` for each trigger, all having polled once; but for the first ones, which also pay
        for what all share.
    """
    first = number // 4
    polls_before = await polls(polls_url)
    tasks: list[asyncio.Task[object]] = []
    async with waiting(peer, url) as wait:

        async def begin(more: int) -> None:
            tasks.extend(
                asyncio.create_task(wait(f"job-{len(tasks) + index}", FOR_EVER)) for index in range(more)
            )
            while peer != IDLE and await polls(polls_url) - polls_before < len(tasks):
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)  # until the last answers have been read

        await begin(first)
        before = resident()
        while len(tasks) < number:
            await begin(min(BATCH, number - len(tasks)))
        used = resident() - before
    for task in tasks:
        if task.done():  # none ends
            task.result()
    return {"kilobytes": used / (number - first) / 1024}


async def polls(url: str) -> int:
    def ask() -> int:
        with urllib.request.urlopen(url) as answer:  # noqa: S310
            return int(answer.read())

    return await asyncio.to_thread(ask)


def resident() -> int:
    gc.collect()
    return resident_bytes()
