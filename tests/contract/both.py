"""A call through the blocking or the async client, and a server that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from magichour_provider.api.client import MagicHourClient, Settings
from magichour_provider.api.client.asynchronous import AsyncMagicHourClient
from magichour_provider.emulator import Emulator
from magichour_provider.exceptions import MagicHourError

MODES = ("sync", "async")
BLOCKING = ("sync",)  # what pays, moves files or deletes; the async client only polls
KEY = "mhk_test_emulator"


def settings_for(server: Emulator | StandIn, **more: Any) -> Settings:
    # Without "verify" no CA certificates are loaded, which would take longer than most of these tests.
    return Settings(api_key=KEY, base_url=server.url, **({"timeout": 20, "verify": False} | more))


def through(mode: str, settings: Settings, use: Callable[[Any], Any]) -> Any:
    """What ``use`` makes of the client of this mode: it calls a method, awaiting is done here."""
    if mode == "sync":
        with MagicHourClient(settings) as client:
            return use(client)

    async def main() -> Any:
        tls = await asyncio.to_thread(settings.ssl_context)
        async with AsyncMagicHourClient(settings, tls) as client:
            return await use(client)

    return asyncio.run(main())


@dataclass(frozen=True)
class Row:
    """How a call ended, for its caller and for the server."""

    ending: str
    status_code: int | None = None
    retryable: bool | None = None
    charged: str | None = None
    charges: int = 0
    requests: int = 1


def row(
    mode: str,
    settings: Settings,
    use: Callable[[Any], Any],
    *,
    charges: Callable[[], int] = lambda: 0,
    requests: Callable[[], int],
) -> Row:
    """One row of a parity table; ``charges`` and ``requests`` are counted from before to after."""
    before = charges(), requests()
    told: tuple[Any, ...] = ("ok",)
    try:
        through(mode, settings, use)
    except MagicHourError as error:
        told = (type(error).__name__, error.status_code, error.retryable, error.charged)
    return Row(*told, charges=charges() - before[0], requests=requests() - before[1])


class StandIn(socketserver.ThreadingTCPServer):
    """
    A server on loopback that does one thing to whoever has sent it a request.

    :param answer: gets the connection, once a whole request was read from it.
    :param tls: speak TLS with this.
    :param listening: if False, connections are refused until ``listen``.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        answer: Callable[[socket.socket], object],
        *,
        tls: ssl.SSLContext | None = None,
        listening: bool = True,
    ) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler, bind_and_activate=False)
        self.answer = answer
        self.tls = tls
        self.requests = 0
        self.heads: list[bytes] = []
        self.connections = 0
        self.server_bind()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.server_address[1]}"
        if listening:
            self.listen()

    def listen(self) -> None:
        self.server_activate()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        self.connections += 1
        with suppress(OSError):
            connection = self.tls.wrap_socket(request, server_side=True) if self.tls else request
            while head := heard(connection):
                self.requests += 1
                self.heads.append(head)
                self.answer(connection)


def heard(connection: socket.socket) -> bytes:
    """Read a whole request, and return its head; nothing when the client closed the connection."""
    request = b""
    while b"\r\n\r\n" not in request:
        if not (more := connection.recv(65536)):
            return b""
        request += more
    head, _, body = request.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    missing = int(fields.get(b"content-length", 0)) - len(body)
    while missing > 0 and (more := connection.recv(missing)):
        missing -= len(more)
    return head if missing == 0 else b""


@contextmanager
def stand_in(answer: Callable[[socket.socket], object], **how: Any) -> Iterator[StandIn]:
    server = StandIn(answer, **how)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def says(text: str) -> Callable[[socket.socket], None]:
    """Answer this, and close."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(text.encode())
        connection.shutdown(socket.SHUT_RDWR)

    return answer


def accepts(connection: socket.socket) -> None:
    """Answer as the API does to a request that it likes, and keep the connection."""
    body = b'{"id": "job-1", "credits_charged": 48}'
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


DRIPS = 100


def drips(start: str, end: str) -> Callable[[socket.socket], None]:
    """An answer whose middle comes byte by byte, for about five seconds."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(start.encode())
        gone = threading.Event()
        for _ in range(DRIPS):
            gone.wait(0.05)
            connection.sendall(b"x")
        says(end)(connection)

    return answer
