"""
Everybody who is measured, each in the best use that is ordinary for it.

A peer opens what its jobs share, and yields what makes the poll of one job: GET, JSON, a checked model. What
a peer needs is imported when it is opened, so that no process pays for another's imports.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from pydantic import BaseModel

CONNECTION = "bench"
FOR_EVER = 1e6  # seconds


class HasStatus(Protocol):
    @property
    def status(self) -> str: ...


SendTracker = Callable[[str], Callable[[], Awaitable[Any]]]
Peer = Callable[[str], AbstractAsyncContextManager[SendTracker]]


class Seen(BaseModel):
    """As much of a job as anybody needs who waits for it."""

    id: str
    status: str
    downloads: list[dict[str, str]]


@asynccontextmanager
async def ours(url: str) -> AsyncIterator[SendTracker]:
    from magichour_provider.api.client import Settings
    from magichour_provider.api.client.asynchronous import AsyncMagicHourClient

    settings = Settings(api_key="key", base_url=url)
    async with AsyncMagicHourClient(settings, settings.ssl_context()) as client:
        yield lambda job_id: partial(client.get, job_id)


@asynccontextmanager
async def sdk_async(url: str) -> AsyncIterator[SendTracker]:
    from magic_hour import AsyncClient

    client = AsyncClient(base_url=url, token="key")  # noqa: S106
    yield lambda job_id: partial(client.v1.video_projects.get, id=job_id)


@asynccontextmanager
async def sdk_in_threads(url: str) -> AsyncIterator[SendTracker]:
    from magic_hour import Client

    client = Client(base_url=url, token="key")  # noqa: S106
    yield lambda job_id: partial(asyncio.to_thread, client.v1.video_projects.get, id=job_id)


@asynccontextmanager
async def http_trigger(url: str) -> AsyncIterator[SendTracker]:
    """As the provider's own ``HttpEventTrigger`` polls, which also imports its check anew for each poll."""
    use_connection(conn_type="http", host=url)
    from airflow.providers.http.triggers.http import HttpTrigger

    def watch(job_id: str) -> Callable[[], Awaitable[Seen]]:
        trigger = HttpTrigger(
            CONNECTION,
            method="GET",
            endpoint=f"v1/video-projects/{job_id}",
            headers={"Authorization": "Bearer key"},
        )
        hook = trigger._get_async_hook()

        async def poll() -> Seen:
            return Seen.model_validate_json((await trigger._get_response(hook)).content)

        return poll

    yield watch


@asynccontextmanager
async def anthropic(url: str) -> AsyncIterator[SendTracker]:
    """The hook is shared, which is kinder than the provider's triggers: each of those makes a client."""
    use_connection(conn_type="anthropic", host=url, password="key")  # noqa: S106
    from airflow.providers.anthropic.hooks.anthropic import AnthropicHook

    hook = AnthropicHook(CONNECTION)
    yield lambda job_id: partial(asyncio.to_thread, hook.get_batch, job_id)


@asynccontextmanager
async def plain_aiohttp(url: str) -> AsyncIterator[SendTracker]:
    import aiohttp

    async with aiohttp.ClientSession(url, headers={"Authorization": "Bearer key"}) as session:

        async def poll(path: str) -> Seen:
            async with session.get(path) as response:
                return Seen.model_validate_json(await response.read())

        yield lambda job_id: partial(poll, f"/v1/video-projects/{job_id}")


@asynccontextmanager
async def raw(url: str) -> AsyncIterator[SendTracker]:
    """The limit: no HTTP library, requests made beforehand, answers of which only the length is looked at."""
    loop = asyncio.get_running_loop()
    where = urlsplit(url)
    tls = ssl.create_default_context() if where.scheme == "https" else None
    idle: list[RawConnection] = []
    gate = asyncio.Semaphore(100)  # as many connections as aiohttp opens

    async def poll(request: bytes) -> Seen:
        async with gate:
            if idle:
                connection = idle.pop()
            else:
                _, connection = await loop.create_connection(
                    RawConnection, where.hostname, where.port, ssl=tls
                )
            body = await connection.ask(request)
            idle.append(connection)
        return Seen.model_validate_json(body)

    def watch(job_id: str) -> Callable[[], Awaitable[Seen]]:
        head = f"GET /v1/video-projects/{job_id} HTTP/1.1\r\nHost: {where.netloc}\r\n"
        return partial(poll, f"{head}Authorization: Bearer key\r\n\r\n".encode())

    yield watch


class RawConnection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._received = b""

    def ask(self, request: bytes) -> asyncio.Future[bytes]:
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
        if length and len(body) == int(length):
            self._received = b""
            self._answer.set_result(body)


US = "this provider"
SDK_ASYNC = "Magic Hour SDK, async"
SDK_THREADS = "Magic Hour SDK in threads"
HTTP = "HttpTrigger"
ANTHROPIC = "anthropic provider"
AIOHTTP = "aiohttp"
RAW = "raw socket"

PEERS: dict[str, Peer] = {
    US: ours,
    SDK_ASYNC: sdk_async,
    SDK_THREADS: sdk_in_threads,
    HTTP: http_trigger,
    ANTHROPIC: anthropic,
    AIOHTTP: plain_aiohttp,
    RAW: raw,
}


# --- as triggers, which wait for a job until it has ended ---

Wait = Callable[[str, float], Awaitable[object]]


@asynccontextmanager
async def waiting(peer: str, url: str) -> AsyncIterator[Wait]:
    """
    What waits for a job by its id, looking every so many seconds: the peer's own trigger, if it has one that
    waits; or else the trigger that anybody would write, a loop of polls and sleeps.
    """
    log_as_a_triggerer()
    if peer in OWN_TRIGGERS:
        yield OWN_TRIGGERS[peer](url)
        return
    async with PEERS[peer](url) as watch:

        async def wait(job_id: str, interval: float) -> None:
            poll = watch(job_id)
            while (await poll()).status != "complete":
                await asyncio.sleep(interval)

        yield lambda job_id, interval: run(own_trigger()(wait(job_id, interval)))


def our_trigger(url: str) -> Wait:
    use_connection(conn_type="magichour", host=url, password="key")  # noqa: S106
    from magichour_provider.triggers import JobTrigger

    def wait(job_id: str, interval: float) -> Awaitable[object]:
        deadline = time.time() + FOR_EVER
        return run(
            JobTrigger(job_id=job_id, magichour_conn_id=CONNECTION, deadline=deadline, poll_interval=interval)
        )

    return wait


def anthropic_trigger(url: str) -> Wait:
    use_connection(conn_type="anthropic", host=url, password="key")  # noqa: S106
    from airflow.providers.anthropic.triggers.batch import AnthropicBatchTrigger

    return lambda job_id, interval: run(
        AnthropicBatchTrigger(CONNECTION, job_id, interval, time.time() + FOR_EVER)
    )


def http_sensor_trigger(url: str) -> Wait:
    """The trigger of a deferrable ``HttpSensor``: a 404 means "not yet"."""
    use_connection(conn_type="http", host=url)
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    return lambda job_id, interval: run(
        HttpSensorTrigger(f"not-yet/{job_id}", http_conn_id=CONNECTION, poke_interval=interval)
    )


def idle_trigger(url: str) -> Wait:
    """What Airflow itself needs for a trigger."""
    return lambda job_id, interval: run(own_trigger()(asyncio.sleep(FOR_EVER)))


@cache
def own_trigger() -> Callable[[Awaitable[object]], Any]:
    """The class of an Airflow trigger that fires when its work is done."""
    from airflow.triggers.base import BaseTrigger, TriggerEvent

    class OwnTrigger(BaseTrigger):
        def __init__(self, work: Awaitable[object]) -> None:
            super().__init__()
            self.work = work

        def serialize(self) -> tuple[str, dict[str, Any]]:
            return "benchmarks.peers.OwnTrigger", {}

        async def run(self) -> AsyncIterator[TriggerEvent]:
            yield TriggerEvent(await self.work)

    return OwnTrigger


def log_as_a_triggerer() -> None:
    """JSON, on its way to the supervisor; here, to nobody."""
    from airflow.sdk.log import configure_logging

    nowhere = Path(os.devnull).open("wb")  # noqa: SIM115 - until the process ends
    configure_logging(json_output=True, output=nowhere, sending_to_supervisor=True)


async def run(trigger: Any) -> object:
    """The trigger's event."""
    return [event async for event in trigger.run()]


IDLE = "an idle trigger"
OWN_TRIGGERS: dict[str, Callable[[str], Wait]] = {
    US: our_trigger,
    HTTP: http_sensor_trigger,
    ANTHROPIC: anthropic_trigger,
    IDLE: idle_trigger,
}


def use_connection(**fields: str) -> None:
    os.environ[f"AIRFLOW_CONN_{CONNECTION.upper()}"] = json.dumps(fields)
