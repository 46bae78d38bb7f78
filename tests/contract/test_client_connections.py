"""Connections: which are kept, how many there are, through which proxy, and what an error says of them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from both import MODES, says, settings_for, stand_in, through

from magichour_provider.api.client import MagicHourClient, Settings
from magichour_provider.api.client.answers import MAX_ANSWER_BYTES
from magichour_provider.api.client.asynchronous import MAX_CONNECTIONS, AsyncMagicHourClient
from magichour_provider.exceptions import InvalidConnection, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from both import StandIn

JOB = b'{"id": "job-1", "status": "queued"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(JOB), JOB)


def answers(connection: socket.socket) -> None:
    connection.sendall(ANSWER)


def client_for(server: StandIn, **more: object) -> AsyncMagicHourClient:
    settings = settings_for(server, **more)
    return AsyncMagicHourClient(settings, settings.ssl_context())


async def test_polls_one_after_another_use_one_connection() -> None:
    with stand_in(answers) as server:
        async with client_for(server) as api:
            for _ in range(5):
                assert (await api.get("job-1")).status == "queued"
        assert (server.requests, server.connections) == (5, 1)


async def test_a_burst_of_polls_uses_few_connections() -> None:
    with stand_in(answers) as server:
        async with client_for(server) as api:
            await asyncio.gather(*(api.get("job-1") for _ in range(10 * MAX_CONNECTIONS)))
        assert server.requests == 10 * MAX_CONNECTIONS
        assert server.connections <= MAX_CONNECTIONS


async def test_canceled_polls_leave_connections_to_the_next_ones() -> None:
    silent, heard = threading.Event(), threading.Event()

    def answer(connection: socket.socket) -> None:
        heard.set()
        if silent.wait(20):
            with suppress(OSError):
                connection.sendall(ANSWER)

    with stand_in(answer) as server:
        async with client_for(server) as api:
            waiting = [asyncio.create_task(api.get("job-1")) for _ in range(MAX_CONNECTIONS)]
            await asyncio.to_thread(heard.wait, 20)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            silent.set()
            # The late answers to the canceled ones must not be taken for answers to these.
            jobs = await asyncio.gather(*(api.get("job-1") for _ in range(MAX_CONNECTIONS)))
        assert {job.status for job in jobs} == {"queued"}


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    with stand_in(says(ANSWER.decode())) as server:  # and closes, without having said so
        async with client_for(server) as api:
            for _ in range(3):
                assert (await api.get("job-1")).job_id == "job-1"
        assert server.connections >= 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "the connection's"])
async def test_a_proxy_is_used(mode: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with stand_in(answers) as proxy:
        address = proxy.url if variable != "ALL_PROXY" else proxy.url.removeprefix("http://")
        own: Any = {"proxy": address} if variable == "the connection's" else {}
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


def tunnel_to(server: StandIn) -> Callable[[socket.socket], None]:
    """What a proxy does after CONNECT, wherever it was to lead."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def connect(client: socket.socket) -> None:
        with socket.create_connection(server.server_address) as beyond:  # type: ignore[arg-type]
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            up = threading.Thread(target=pump, args=(client, beyond), daemon=True)
            up.start()
            pump(beyond, client)
            up.join()

    return connect


@pytest.mark.parametrize("mode", MODES)
def test_tls_goes_through_a_proxy_that_sees_neither_key_nor_answer(
    mode: str, tls: ssl.SSLContext, pem: Path
) -> None:
    with stand_in(answers, tls=tls) as server, stand_in(tunnel_to(server)) as proxy:
        settings = settings_for(server, proxy=proxy.url, verify=str(pem))
        assert through(mode, settings, lambda api: api.get("job-1")).status == "queued"
        assert proxy.heads[0].startswith(b"CONNECT 127.0.0.1:")
        assert (proxy.requests, server.requests) == (1, 1)
        assert b"Bearer" not in b"".join(proxy.heads)
        assert b"Authorization: Bearer" in server.heads[0]


async def test_a_host_that_needs_no_proxy_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stand_in(answers) as server:
        async with client_for(server) as api:
            await api.get("job-1")
        assert server.requests == 1


async def test_tls_connections_are_kept_too(tls: ssl.SSLContext) -> None:
    with stand_in(answers, tls=tls) as server:
        async with client_for(server) as api:
            for _ in range(3):
                await api.get("job-1")
        assert (server.requests, server.connections) == (3, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("listening", [True, False])
def test_an_error_says_whether_the_call_was_sent_and_names_the_host(
    mode: str, listening: bool, pauses: list[float]
) -> None:
    with stand_in(lambda connection: connection.shutdown(socket.SHUT_RDWR)) as server:
        url = server.url if listening else "http://127.0.0.1:9"
        with pytest.raises(Unavailable) as failed:
            through(mode, replace(settings_for(server), base_url=url), lambda api: api.get("job-1"))
    assert failed.value.sent is listening
    assert ("could not be sent" in str(failed.value)) is not listening
    assert mode == "sync" or url.removeprefix("http://") in str(failed.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "the connection's"])
def test_a_socks_proxy_is_refused_before_anything_is_sent(
    mode: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    own: Any = {"proxy": "socks5://127.0.0.1:9"} if variable == "the connection's" else {}
    if not own:
        monkeypatch.setenv(variable, "socks5://127.0.0.1:9")
    settings = Settings(api_key="key", base_url="http://magichour.example", verify=False, **own)
    with pytest.raises(InvalidConnection, match="SOCKS proxy, which is not supported"):
        through(mode, settings, lambda api: api.get("job-1"))


async def test_a_proxys_user_and_password_are_sent_to_it_and_are_in_no_error() -> None:
    refuses = says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    with stand_in(refuses) as proxy:
        address = proxy.url.replace("://", "://me:s3cret%21@")
        settings = Settings(api_key="key", base_url="https://magichour.example", verify=False, proxy=address)
        async with AsyncMagicHourClient(settings, settings.ssl_context()) as api:
            with pytest.raises(Unavailable, match="the proxy answered HTTP 407") as failed:
                await api.account(once=True)
        assert b"Proxy-Authorization: Basic bWU6czNjcmV0IQ==" in proxy.heads[0]
        assert b"Bearer" not in proxy.heads[0]
    error: BaseException | None = failed.value
    while error is not None:
        assert "s3cret" not in f"{error!r} {vars(error)}"
        error = error.__cause__ or error.__context__


async def test_an_answer_without_end_is_cut_off_at_its_limit() -> None:
    gone = threading.Event()

    def answers_for_ever(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            while True:
                connection.sendall(b" " * 65_536)
        gone.set()

    with stand_in(answers_for_ever) as server:
        async with client_for(server) as api:
            with pytest.raises(Unavailable, match=f"longer than {MAX_ANSWER_BYTES} bytes"):
                await api.account(once=True)
        assert await asyncio.to_thread(gone.wait, 20)  # nothing reads on


def test_a_key_that_no_header_can_hold_is_refused_before_any_call() -> None:
    with pytest.raises(InvalidConnection, match="the API key has a character") as refused:
        Settings(api_key="ключ")
    assert "ключ" not in str(refused.value)
