"""One async client for all who wait on the same event loop with the same connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from magichour_provider.api.client.asynchronous import AsyncMagicHourClient

KEEP_SETTINGS = 300.0  # seconds for which a client is given to newcomers

Open = Callable[[str], Coroutine[Any, Any, AsyncMagicHourClient]]


class SharedClient:
    """
    Its block has the client of this name; the first one opens it, the last one closes it.

    There may be ten thousand, and a generator would take more memory than this class.

    :param opens: by the name.
    """

    __slots__ = ("_name", "_opens", "_shared")

    def __init__(self, name: str, opens: Open) -> None:
        self._name = name
        self._opens = opens

    async def __aenter__(self) -> AsyncMagicHourClient:
        clients = _clients.setdefault(asyncio.get_running_loop(), {})
        shared = clients.get(self._name)
        if shared is None or time.monotonic() - shared.opened_at > KEEP_SETTINGS:
            opening = asyncio.ensure_future(self._opens(self._name))
            shared = clients[self._name] = _Shared(opening, time.monotonic())
        self._shared = shared
        shared.users += 1
        try:
            if not shared.opening.done():
                # Shielded: the one who began to open it may be canceled, the others still wait for it.
                await asyncio.shield(shared.opening)
            return shared.opening.result()
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._shared.users -= 1
        if not self._shared.users:
            clients = _clients[asyncio.get_running_loop()]
            if clients.get(self._name) is self._shared:
                del clients[self._name]
            await self._shared.close()


@dataclass
class _Shared:
    opening: asyncio.Future[AsyncMagicHourClient]
    opened_at: float
    users: int = 0

    async def close(self) -> None:
        if self.opening.cancel():
            return
        if not self.opening.cancelled() and self.opening.exception() is None:
            await self.opening.result().close()


# Keyed by loop: dag.test() makes a new one for each trigger.
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, _Shared]] = WeakKeyDictionary()
