"""
A burst of paid calls against a rate limit: 64 callers with one call each.

In Airflow each has a process of its own. They share nothing, so here they are threads, each with a client of
its own. Calls that the limit refuses do not count against it. Goodput is the share of the limit that is used
until the last call is through.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import cast

from .harness import Goal, Options, Sample, fresh, goal_table, interleaved, use_core
from .standin import Connection, answer
from .table import Table

CALLERS = 64
RATES = (4, 2, 1)  # calls a second that the API lets through
RETRY_AFTER = {"without Retry-After": 0, "with Retry-After: 1": 1}  # seconds
PATIENCE = 300.0  # seconds; of each caller


def ours(url: str) -> None:
    from magichour_provider.api import wire
    from magichour_provider.api.client import MagicHourClient, Settings
    from magichour_provider.api.inputs import TalkingPhotoInputs

    inputs = TalkingPhotoInputs(image_file_path="me.png", audio_file_path="hello.mp3", end_seconds=1)
    uploaded = {"image_file_path": "api-assets/me.png", "audio_file_path": "api-assets/hello.mp3"}
    call = wire.paid_call(inputs, uploaded, "n")
    with MagicHourClient(Settings(api_key="key", base_url=url, verify=False)) as client:
        client.submit(call, retry_429_seconds=PATIENCE)


def sdk(url: str) -> None:
    """As tenacity's documentation advises when many compete for one resource."""
    import tenacity
    from magic_hour import Client

    client = Client(base_url=url, token="key")  # noqa: S106
    tenacity.Retrying(
        wait=tenacity.wait_random_exponential(multiplier=1, max=60),
        stop=tenacity.stop_after_delay(PATIENCE),
        retry=tenacity.retry_if_exception(lambda error: "429" in str(error)),
    )(
        client.v1.ai_talking_photo.create,
        assets={"image_file_path": "api-assets/me.png", "audio_file_path": "api-assets/hello.mp3"},
        start_seconds=0,
        end_seconds=1,
    )


US, SDK = "this provider", "Magic Hour SDK with tenacity"
PEERS: dict[str, Callable[[str], None]] = {US: ours, SDK: sdk}


def run(options: Options) -> list[Table]:
    rates = RATES[:1] if options.quick else RATES
    cases = {
        (peer, rate, pause): partial(case, peer, rate, RETRY_AFTER[pause])
        for peer, rate, pause in product(PEERS, rates, RETRY_AFTER)
    }
    found = interleaved(cases, rounds=1)
    rows = []
    for (_, rate, pause), key in ((key, key) for key in cases):
        samples = found.get(key)
        cells = (
            (
                f"{samples['through'].median:.0f} of {CALLERS}",
                f"{samples['seconds'].median:.0f}",
                f"{samples['goodput'].median:.0%}",
                f"{samples['refused'].median:.1f}",
            )
            if samples
            else ("–", "over 10 minutes", "–", "–")
        )
        rows.append((key[0], f"{rate} a second, {pause}", *cells))
    columns = ["", "limit", "through", "seconds", "goodput", "refused calls a caller"]
    return [Table(f"{CALLERS} paid calls at once against a rate limit", columns, rows), goals(found)]


def goals(found: dict[tuple[str, int, str], dict[str, Sample]]) -> Table:
    """The harness knows limits from above: so it is what is lost."""
    mine = {key: samples for key, samples in found.items() if key[0] == US}
    lost = max((1 - samples["goodput"].median for samples in mine.values()), default=1.0)
    gave_up = max((CALLERS - samples["through"].median for samples in mine.values()), default=CALLERS)
    return goal_table(
        [
            Goal("callers that gave up, at worst", 0, Sample((gave_up,)), digits=0),
            Goal("share of the limit that is not used, at worst", 0.2, Sample((lost,))),
        ]
    )


def case(peer: str, rate: int, retry_after: int) -> dict[str, float] | None:
    with limited(rate, retry_after) as url:
        return fresh(measure, seconds=600, peer=peer, url=url, rate=rate)


def measure(peer: str, url: str, rate: int) -> dict[str, float]:
    """:returns: calls that got ``through``, in so many ``seconds``, the ``goodput``, calls ``refused``."""
    import urllib.request

    PEERS[peer](url)  # imports what is imported late

    def through(_: int) -> float | None:
        try:
            PEERS[peer](url)
        except Exception:  # noqa: BLE001 (each has its own error for it)
            return None
        return time.monotonic()

    began = time.monotonic()
    with ThreadPoolExecutor(CALLERS) as threads:
        ends = [end for end in threads.map(through, range(CALLERS)) if end is not None]
    seconds = max(ends, default=began) - began
    with urllib.request.urlopen(f"{url}/refused") as refused:  # noqa: S310
        calls = int(refused.read())
    return {
        "through": len(ends),
        "seconds": seconds,
        "goodput": len(ends) / (rate * (seconds + 1)),  # the bucket was full
        "refused": calls / CALLERS,
    }


# --- the server ---


class LimitedApi:
    """For ``standin.Connection``: a token bucket that holds the calls of one second."""

    latency = 0.0
    size = 0

    def __init__(self, rate: float, retry_after: int) -> None:
        self._rate = rate
        self._tokens, self._counted_at = rate, time.monotonic()
        self._refused = 0
        self._jobs = 0
        wait = f"Retry-After: {retry_after}\r\n" if retry_after else ""
        self._too_many = answer(b'{"message": "Too Many Requests"}', "429 Too Many Requests", wait)

    def respond(self, _method: bytes, path: bytes, _host: str) -> bytes:
        if path == b"/refused":
            return answer(str(self._refused).encode())
        now = time.monotonic()
        self._tokens = min(self._rate, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._tokens < 1:
            self._refused += 1
            return self._too_many
        self._tokens -= 1
        self._jobs += 1
        job = {"id": f"job{self._jobs}", "credits_charged": 48, "estimated_frame_cost": 48}
        return answer(json.dumps(job).encode())


@contextmanager
def limited(rate: float, retry_after: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.herd", f"--rate={rate}", f"--retry-after={retry_after}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{cast(str, process.stdout and process.stdout.readline()).strip()}"
    finally:
        process.communicate()  # it ends with its stdin


async def serve(api: LimitedApi) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(api), "127.0.0.1", 0, backlog=8192)  # type: ignore[arg-type]
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float)
    parser.add_argument("--retry-after", type=int)
    use_core(1)
    asyncio.run(serve(LimitedApi(**vars(parser.parse_args()))))
