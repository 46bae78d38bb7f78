"""The async client's connections: kept, shared, given back, and as good as the stock client's."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from both import MODES, accepts, says, settings_for, stand_in, through

from magichour_provider.api.client import MOST_CONNECTIONS, AsyncMagicHourClient, MagicHourClient, Settings
from magichour_provider.api.wire import create_talking_photo
from magichour_provider.exceptions import MagicHourError, Unavailable

if TYPE_CHECKING:
    from both import StandIn

JOB = b'{"id": "job-1", "status": "queued"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(JOB), JOB)


def looks(connection: socket.socket) -> None:
    connection.sendall(ANSWER)


def client_for(server: StandIn, **more: object) -> AsyncMagicHourClient:
    settings = settings_for(server, **more)
    return AsyncMagicHourClient(settings, settings.ssl_context())


async def test_one_look_after_the_other_needs_one_connection() -> None:
    with stand_in(looks) as server:
        async with client_for(server) as api:
            for _ in range(5):
                assert (await api.get("job-1")).status == "queued"
        assert (server.requests, server.connections) == (5, 1)


async def test_a_burst_is_held_to_a_few_connections() -> None:
    with stand_in(looks) as server:
        async with client_for(server) as api:
            await asyncio.gather(*(api.get("job-1") for _ in range(10 * MOST_CONNECTIONS)))
        assert server.requests == 10 * MOST_CONNECTIONS
        assert server.connections <= MOST_CONNECTIONS


async def test_a_look_that_is_canceled_takes_no_connection_with_it() -> None:
    silent, heard = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        heard.set()
        if silent.wait(20):
            with suppress(OSError):
                connection.sendall(ANSWER)

    with stand_in(answer) as server:
        async with client_for(server) as api:
            waiting = [asyncio.create_task(api.get("job-1")) for _ in range(MOST_CONNECTIONS)]
            await asyncio.to_thread(heard.wait, 20)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            silent.set()
            # The late answers to the canceled ones must not be taken for answers to these.
            jobs = await asyncio.gather(*(api.get("job-1") for _ in range(MOST_CONNECTIONS)))
        assert {job.status for job in jobs} == {"queued"}


async def test_a_kept_connection_that_the_server_has_closed_is_made_anew() -> None:
    with stand_in(says(ANSWER.decode())) as server:  # and closes, without having said so
        async with client_for(server) as api:
            for _ in range(3):
                assert (await api.get("job-1")).job_id == "job-1"
        assert server.connections >= 3


async def test_a_call_that_pays_has_a_connection_of_its_own() -> None:
    from magichour_provider.api.inputs import TalkingPhotoInputs

    inputs = TalkingPhotoInputs(image_file_path="https://a.example/b.png", end_seconds=1)
    with stand_in(accepts) as server:
        async with client_for(server) as api:
            with suppress(MagicHourError):  # what it answers is no job
                await api.get("job-1")
            await api.submit(
                create_talking_photo(inputs, image="api-assets/a.png", audio="api-assets/a.mp3", name="n")
            )
            before = server.connections
            await api.submit(
                create_talking_photo(inputs, image="api-assets/a.png", audio="api-assets/a.mp3", name="n")
            )
        assert server.connections == before + 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "the connection's"])
async def test_a_proxy_is_asked(mode: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with stand_in(looks) as proxy:
        address = proxy.url if variable != "ALL_PROXY" else proxy.url.removeprefix("http://")
        own = {"proxy": address} if variable == "the connection's" else {}
        if not own:
            monkeypatch.setenv(variable, address)
        settings = Settings(api_key="key", base_url="http://magichour.example", verify=False, **own)
        if mode == "sync":
            with MagicHourClient(settings) as client:
                await asyncio.to_thread(client.get, "job-1")
        else:
            async with AsyncMagicHourClient(settings, settings.ssl_context()) as api:
                await api.get("job-1")
        assert proxy.requests == 1


async def test_a_host_that_needs_no_proxy_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stand_in(looks) as server:
        async with client_for(server) as api:
            await api.get("job-1")
        assert server.requests == 1


async def test_tls_connections_are_kept_too(tls: ssl.SSLContext) -> None:
    with stand_in(looks, tls=tls) as server:
        async with client_for(server) as api:
            for _ in range(3):
                await api.get("job-1")
        assert (server.requests, server.connections) == (3, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("listening", [True, False])
def test_whether_a_free_call_was_sent_is_told_too(mode: str, listening: bool, pauses: list[float]) -> None:
    with stand_in(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as server:
        url = server.url if listening else "http://127.0.0.1:9"
        with pytest.raises(Unavailable) as failed:
            through(mode, replace(settings_for(server), base_url=url), lambda api: api.get("job-1"))
    assert failed.value.sent is listening
    assert ("could not be sent" in str(failed.value)) is not listening
