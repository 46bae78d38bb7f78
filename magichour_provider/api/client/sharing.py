"""One async client for all waits of an event loop that use the same connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from magichour_provider.api.client.asynchronous import AsyncMagicHourClient
from magichour_provider.api.client.settings import Settings
from magichour_provider.api.polling import RateLimiter, RenderTimes

KEEP_SETTINGS = 300.0  # seconds; after this, a new wait opens a new client and reads the connection again

ReadSettings = Callable[[str], Coroutine[Any, Any, Settings]]


class SharedClient:
    """
    Async context manager of the client for a connection. The first user opens the client, the last one closes
    it.

    It is a class and not a generator, because ten thousand may be open, and a class needs less memory.

    :param conn_id: the id of the connection.
    :param read_settings: reads the connection by its id when a client is opened.
    """

    __slots__ = ("_conn_id", "_read_settings", "_shared")

    def __init__(self, conn_id: str, read_settings: ReadSettings) -> None:
        self._conn_id = conn_id
        self._read_settings = read_settings

    async def __aenter__(self) -> AsyncMagicHourClient:
        clients = _clients.setdefault(asyncio.get_running_loop(), {})
        shared = clients.get(self._conn_id)
        if shared is None or shared.is_outdated():
            opening = asyncio.ensure_future(self._open())
            shared = clients[self._conn_id] = _Shared(opening, time.monotonic())
        self._shared = shared
        shared.users += 1
        try:
            if not shared.opening.done():
                # Shielded: if one user is canceled, the other users still wait for the client.
                await asyncio.shield(shared.opening)
            return shared.opening.result()
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._shared.users -= 1
        if not self._shared.users:
            clients = _clients[asyncio.get_running_loop()]
            if clients.get(self._conn_id) is self._shared:
                del clients[self._conn_id]
            await self._shared.close()

    async def _open(self) -> AsyncMagicHourClient:
        settings = await self._read_settings(self._conn_id)
        limiter, renders = _learned.setdefault(
            (self._conn_id, settings.base_url), (RateLimiter(), RenderTimes())
        )
        limiter.requests_per_second = settings.requests_per_second
        tls = await asyncio.to_thread(settings.ssl_context)
        return AsyncMagicHourClient(settings, tls, limiter=limiter, renders=renders)


@dataclass
class _Shared:
    opening: asyncio.Future[AsyncMagicHourClient]
    opened_at: float
    users: int = 0

    def is_outdated(self) -> bool:
        opened = self.opening.done() and not self.opening.cancelled() and not self.opening.exception()
        return time.monotonic() - self.opened_at > KEEP_SETTINGS or (
            opened and self.opening.result().outdated
        )

    async def close(self) -> None:
        if self.opening.cancel():
            return
        if not self.opening.cancelled() and self.opening.exception() is None:
            await self.opening.result().close()


# By event loop: dag.test() makes a new loop for each trigger.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Shared]] = WeakKeyDictionary()
# How often a connection may be polled, and how long its renders take. New clients use it again.
_learned: dict[tuple[str, str], tuple[RateLimiter, RenderTimes]] = {}
