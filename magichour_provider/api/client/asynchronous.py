"""
The API for an event loop: polls only. It is what the triggerer uses.

It uses aiohttp, which takes a fifth of the CPU that httpx takes for a poll. aiohttp repeats a GET by itself
when the server closes the connection. For a poll that is harmless, for a paid call it is not. So the blocking
client does everything that pays, uploads, downloads or deletes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from typing import Any, NoReturn, Self, TypeVar, assert_never, cast

import aiohttp
import tenacity
from multidict import CIMultiDict
from yarl import URL

from magichour_provider.api import flows, models, wire
from magichour_provider.api.client.api import (
    AnswerBody,
    ApiTransport,
    Settings,
    api_headers,
    api_proxy,
    proxy_errors,
)
from magichour_provider.api.flows import Flow, Sleep
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import RateLimiter, RenderTimes
from magichour_provider.exceptions import MagicHourError

T = TypeVar("T")

MAX_CONNECTIONS = 16
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
KEEP_ALIVE = 60.0  # seconds; longer than the pause between two polls of a single job


class AsyncMagicHourClient:
    """
    The API for an event loop: ``get``, ``wait`` and ``account``, with the errors of ``MagicHourClient``.

    .. versionadded:: 0.1.0

    :param tls: from ``Settings.ssl_context``, which blocks: call it outside the event loop.
    :param limiter: of the connection's polls; default: the settings' limit.
    :param renders: what is known about the connection's render times; default: nothing.
    :ivar outdated: the connection may have changed since. ``SharedClient`` opens a new client for new users.
    """

    outdated = False

    def __init__(
        self,
        settings: Settings,
        tls: ssl.SSLContext,
        *,
        limiter: RateLimiter | None = None,
        renders: RenderTimes | None = None,
    ) -> None:
        self.settings = settings
        self.limiter = limiter or RateLimiter(settings.requests_per_second)
        self.renders = renders or RenderTimes()
        self._base_url = settings.base_url.rstrip("/")
        with proxy_errors():
            self._api = ApiTransport(settings, tls)
            proxy = api_proxy(settings)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=tls,
                    limit=0,  # _gate limits them
                    keepalive_timeout=KEEP_ALIVE,
                    resolver=aiohttp.ThreadedResolver(),  # the system's, as in the blocking client
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # AnswerBody does it, up to its limit
                timeout=aiohttp.ClientTimeout(
                    total=settings.timeout, sock_connect=min(10.0, settings.timeout)
                ),
                proxy=URL(proxy) if proxy else None,
            )
        # Not the session's headers: aiohttp sends those to a proxy too.
        self._headers = CIMultiDict(api_headers(settings))
        # Time spent waiting for a free connection does not count as time without an answer.
        self._gate = asyncio.Semaphore(MAX_CONNECTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def get(self, job_id: str, job_type: JobType = "video") -> models.Job:
        """See ``MagicHourClient.get``."""
        return await self._retried(wire.get_job(job_id, job_type), flows.RETRY_SAFE)

    def wait(
        self,
        job_id: str,
        job_type: JobType = "video",
        *,
        deadline: float,
        poll_interval: float | None = None,
        mode: str | None = None,
        clip_seconds: float | None = None,
        expects_event: bool = False,
        **how: Any,
    ) -> Coroutine[Any, Any, models.Job]:
        """
        See ``MagicHourClient.wait``.

        :param expects_event: a webhook's event may end this wait, if the connection has webhooks.
        """
        schedule = self.settings.schedule(
            poll_interval,
            job_type=job_type,
            mode=mode,
            clip_seconds=clip_seconds,
            renders=self.renders,
            expects_event=expects_event and self.settings.webhooks,
        )
        return self._run(
            flows.wait(job_id, deadline=deadline, schedule=schedule, limiter=self.limiter, **how)
        )

    async def account(self, *, once: bool = False) -> models.Account:
        """See ``MagicHourClient.account``."""
        return await self._retried(wire.get_account(), flows.NO_RETRY if once else flows.RETRY_SAFE)

    async def _retried(self, call: wire.Call[T], policy: dict[str, Any]) -> T:
        try:
            return await self._call(call)  # nearly always; tenacity would add a tenth to the call's CPU
        except MagicHourError as error:
            failures = [error]

        async def attempt() -> T:
            if failures:  # the first attempt has been made
                raise failures.pop()
            return await self._call(call)

        return await tenacity.AsyncRetrying(**policy)(attempt)

    async def _run(self, flow: Flow[T]) -> T:
        """Drive a flow: see ``flows``."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._do(step)
                except MagicHourError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
                    del outcome  # ten thousand may sleep here, each with an answer that it no longer needs
        except StopIteration as end:
            return cast(T, end.value)
        finally:
            flow.close()

    async def _do(self, step: flows.Step) -> object:
        match step:
            case wire.Call():
                return await self._call(step)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                return None
            case _:
                assert_never(step)

    async def _call(self, call: wire.Call[T]) -> T:
        if self._session.closed:
            raise RuntimeError("This client has been closed; use it inside its async with")
        failure: Exception | None = None
        try:
            async with self._gate:  # before any work: a thousand polls may be due in one turn of the loop
                # The path is quoted already, and yarl would quote it in another way.
                url = URL(self._base_url + call.path, encoded=True)
                async with self._session.get(url, headers=self._headers, allow_redirects=False) as response:
                    body = AnswerBody(response.headers)
                    while (chunk := await response.content.readany()) and body.feed(chunk):
                        pass
        except (TimeoutError, aiohttp.ClientError) as error:
            failure = error
        if failure is not None:  # raised here, so that it is not in the new error's context
            self._not_answered(call, failure)
        return self._api.answer(call, response.status, response.headers, body)

    def _not_answered(self, call: wire.Call[Any], failure: Exception) -> NoReturn:
        # An error of aiohttp may hold the request's headers, a proxy's password or text from the server, so
        # only the operating system's error below it is kept, without the frames: a wait keeps the last error.
        if isinstance(failure, aiohttp.ClientHttpProxyError):
            error: Exception = ConnectionError(f"the proxy answered HTTP {failure.status}")
        elif isinstance(failure.__cause__, OSError):
            error = failure.__cause__.with_traceback(None)
        else:
            error = ConnectionError(type(failure).__name__)
        sent = not isinstance(failure, _NOT_SENT)
        self._api.no_answer(call, error, sent=sent, timed_out=isinstance(failure, TimeoutError))
