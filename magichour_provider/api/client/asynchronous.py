"""
The client for an event loop, over aiohttp: it only polls. The triggerer uses it.

A poll with aiohttp needs a fifth of the CPU of a poll with httpx. But aiohttp repeats a GET by itself when
the server closes the connection. This is harmless for a poll, and not for a paid call. So the blocking client
makes all calls that pay, upload, download or delete.
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

from magichour_provider.api import flows, models, retries, wire
from magichour_provider.api.client.answers import AnswerBody, Answers
from magichour_provider.api.client.settings import (
    Settings,
    api_proxy,
    check_base_url,
    translate_proxy_errors,
)
from magichour_provider.api.flows import Flow, Sleep
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import RateLimiter, RenderTimes
from magichour_provider.exceptions import MagicHourError

T = TypeVar("T")

MAX_CONNECTIONS = 16
_NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
KEEP_ALIVE = 60.0  # seconds; longer than the pause between two polls of one job


class AsyncMagicHourClient:
    """
    The API for an event loop: ``get``, ``wait`` and ``account``, with the errors of ``MagicHourClient``.

    .. versionadded:: 0.1.0

    :param tls: the result of ``Settings.ssl_context``, which blocks: call it outside the event loop.
    :param limiter: limits the polls of the connection; default: by the settings' ``requests_per_second``.
    :param renders: the known render times of the connection; default: none.
    :ivar outdated: the connection may have changed. ``SharedClient`` then opens a new client for new users.
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
        check_base_url(settings)
        with translate_proxy_errors():
            proxy = api_proxy(settings)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=tls,
                    limit=0,  # _gate limits them
                    keepalive_timeout=KEEP_ALIVE,
                    resolver=aiohttp.ThreadedResolver(),  # the system's resolver, as in the blocking client
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # AnswerBody decodes, up to its limit
                timeout=aiohttp.ClientTimeout(total=settings.timeout, sock_connect=settings.connect_timeout),
                proxy=URL(proxy) if proxy else None,
            )
        self._answers = Answers(settings, proxy)
        # Not in the session: aiohttp sends the session's headers to a proxy too.
        self._headers = CIMultiDict(settings.headers())
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
        return await self._retried(wire.get_job(job_id, job_type), retries.RETRY_SAFE)

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
        **options: Any,
    ) -> Coroutine[Any, Any, models.Job]:
        """
        See ``MagicHourClient.wait``.

        :param expects_event: a webhook event may end this wait, if the connection has webhooks.
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
            flows.wait(job_id, deadline=deadline, schedule=schedule, limiter=self.limiter, **options)
        )

    async def account(self, *, once: bool = False) -> models.Account:
        """See ``MagicHourClient.account``."""
        return await self._retried(wire.get_account(), retries.NO_RETRY if once else retries.RETRY_SAFE)

    async def _retried(self, call: wire.Call[T], policy: dict[str, Any]) -> T:
        try:
            return await self._call(call)  # usually enough; tenacity would add a tenth to the call's CPU
        except MagicHourError as error:
            failures = [error]

        async def attempt() -> T:
            if failures:  # the first attempt was made above
                raise failures.pop()
            return await self._call(call)

        return await tenacity.AsyncRetrying(**policy)(attempt)

    async def _run(self, flow: Flow[T]) -> T:
        """Execute the steps of a flow: see ``flows``."""
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._do(step)
                except MagicHourError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
                    del outcome  # ten thousand waits may sleep here: keep no answer that is not needed
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
                # The path is already quoted, and yarl would quote it differently.
                url = URL(self.settings.url(call.path), encoded=True)
                async with self._session.get(url, headers=self._headers, allow_redirects=False) as response:
                    body = AnswerBody(response.headers)
                    while (chunk := await response.content.readany()) and body.feed(chunk):
                        pass
        except (TimeoutError, aiohttp.ClientError) as error:
            failure = error
        if failure is not None:  # outside "except", so that the new error's context does not keep it
            self._raise_no_answer(call, failure)
        return self._answers.answer(call, response.status, response.headers, body)

    def _raise_no_answer(self, call: wire.Call[Any], failure: Exception) -> NoReturn:
        # An error of aiohttp may contain the request's headers, a proxy's password or text from the server.
        # So only its cause is kept, if that is an error of the operating system. The frames are removed,
        # because a wait keeps the last error.
        if isinstance(failure, aiohttp.ClientHttpProxyError):
            error: Exception = ConnectionError(f"the proxy answered HTTP {failure.status}")
        elif isinstance(failure.__cause__, OSError):
            error = failure.__cause__.with_traceback(None)
        else:
            error = ConnectionError(type(failure).__name__)
        sent = not isinstance(failure, _NOT_SENT)
        self._answers.no_answer(call, error, sent=sent, timed_out=isinstance(failure, TimeoutError))
