"""The API for an event loop: what the triggerer uses."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Self, TypeVar, cast

import httpx
import tenacity

from magichour_provider.api import flows, wire
from magichour_provider.api.client.api import (
    CANNOT_TALK,
    IDENTITY,
    ApiTransport,
    Settings,
    check_put,
    describe_error,
    not_answered,
    proxy_errors,
    safe_cause,
    silence_httpx,
)
from magichour_provider.api.client.tracking import SendTracker
from magichour_provider.api.flows import Fetch, Flow, Put, Sleep, Source, Target, Together
from magichour_provider.api.integrity import DownloadValidator, download_failed
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import PollLimiter
from magichour_provider.exceptions import MagicHourError

T = TypeVar("T")

MOST_CONNECTIONS = 16


class AsyncMagicHourClient:
    """
    The API for an event loop: the same methods, errors and promises as ``MagicHourClient``.

    :param tls: from ``Settings.ssl_context``, which blocks: call it off the loop.
    :param limiter: what is known of the connection's render times and limits; default: nothing yet.
    """

    def __init__(self, settings: Settings, tls: ssl.SSLContext, limiter: PollLimiter | None = None) -> None:
        silence_httpx()
        self._settings = settings
        with proxy_errors():
            self._api = ApiTransport(settings, tls)
            self._storage = httpx.AsyncClient(**settings.for_storage(tls))
        self.limiter = limiter or PollLimiter(settings.requests_per_second)
        # One connection each, and the last used is used first. A pool asks all that it holds about themselves
        # at every request, so the more there are, the dearer is a look.
        self._idle: list[httpx.AsyncHTTPTransport] = []
        # Waiting here for a free connection is not yet time without an answer.
        self._gate = asyncio.Semaphore(MOST_CONNECTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._storage.aclose()
        for connection in self._idle:
            await connection.aclose()

    async def submit(self, call: wire.Call[wire.Submission]) -> wire.Submission:
        """See ``MagicHourClient.submit``."""
        return await self._perform(lambda: flows.just(call), flows.RETRY_SUBMIT)

    async def get(self, job_id: str, job_type: JobType = "video") -> wire.Job:
        """See ``MagicHourClient.get``."""
        return await self._perform(lambda: flows.just(wire.get_job(job_id, job_type)))

    def wait(
        self,
        job_id: str,
        job_type: JobType = "video",
        *,
        deadline: float,
        poll_interval: float | None = None,
        **how: Any,
    ) -> Coroutine[Any, Any, wire.Job]:
        """See ``MagicHourClient.wait``."""
        schedule = self._settings.schedule(poll_interval, self.limiter, job_type)
        return self._run(flows.wait(job_id, deadline=deadline, schedule=schedule, **how))

    async def upload(self, sources: Sequence[Source]) -> list[str]:
        """See ``MagicHourClient.upload``."""
        done: dict[int, str] = {}
        return await self._perform(lambda: flows.upload(sources, done))

    async def completed(self, job_id: str, job_type: JobType = "video") -> tuple[wire.Job, wire.Download]:
        """See ``MagicHourClient.completed``."""
        return await self._perform(lambda: flows.completed(job_id, job_type))

    async def download(self, job_id: str, target: Target, job_type: JobType = "video") -> wire.Job:
        """See ``MagicHourClient.download``."""
        return await self._perform(lambda: flows.download(job_id, target, job_type))

    async def delete(self, job_id: str, job_type: JobType = "video") -> None:
        """See ``MagicHourClient.delete``."""
        await self._perform(lambda: flows.just(wire.delete_job(job_id, job_type)))

    async def account(self, *, once: bool = False) -> wire.Account:
        """See ``MagicHourClient.account``."""
        policy = flows.NO_RETRY if once else flows.RETRY_SAFE
        return await self._perform(lambda: flows.just(wire.get_account()), policy)

    async def _perform(self, attempt: Callable[[], Flow[T]], policy: dict[str, Any] = flows.RETRY_SAFE) -> T:
        try:
            return await self._run(attempt())
        except MagicHourError as error:
            first = [error]

        async def again() -> T:
            if first:  # what tenacity takes for the first attempt has been made: nearly all need no other
                raise first.pop()
            return await self._run(attempt())

        return await tenacity.AsyncRetrying(**policy)(again)

    async def _run(self, flow: Flow[T]) -> T:
        # Ten thousand may sleep here, so no answer is kept that the flow does not keep.
        resume: Callable[[Any], object] = flow.send
        outcome: object = None
        try:
            while True:
                step, outcome = resume(outcome), None
                try:
                    resume, outcome = flow.send, await self._do(step)
                except MagicHourError as error:
                    resume, outcome = flow.throw, error
        except StopIteration as end:
            return cast(T, end.value)

    def _do(self, step: object) -> Awaitable[object]:
        match step:
            case wire.Call():
                return self._call(step)
            case Together(steps):
                return asyncio.gather(*map(self._put, steps), return_exceptions=True)
            case Fetch():
                return self._fetch(step)
            case Sleep(seconds):
                return asyncio.sleep(seconds)
        raise TypeError(step)

    async def _call(self, call: wire.Call[T]) -> T:
        if self._storage.is_closed:
            raise RuntimeError("This client has been closed; whoever shares it must stay in its async with")
        async with self._gate:
            tracker = SendTracker()
            kept = None if call.pays or not self._idle else self._idle.pop()
            connection = kept or self._api.async_connection()
            try:
                # To tracker costs as much as half the call, and only for one that pays must it be certain.
                request = self._api.request(call, tracker.atrace if call.pays else None, bounded=True)
                async with asyncio.timeout(self._settings.timeout):
                    response = await connection.handle_async_request(request)
                    await response.aread()
            except (TimeoutError, *CANNOT_TALK) as error:
                not_answered(call, tracker, error)
            finally:
                if call.pays:
                    await connection.aclose()
                else:
                    self._idle.append(connection)
        return call.answer(response.status_code, response.headers, self._settings.redact(response.content))

    async def _put(self, put: Put) -> None:
        length = {"Content-Length": str(put.source.size)}
        chunks = _off_the_loop(put.source.chunks())
        try:
            response = await self._storage.put(
                put.url, content=chunks, headers=length, follow_redirects=False
            )
        except CANNOT_TALK as error:
            raise flows.upload_failed(put.source, describe_error(error)) from safe_cause(error)
        check_put(put, response)

    async def _fetch(self, fetch: Fetch) -> None:
        try:
            async with self._storage.stream("GET", fetch.url, headers=IDENTITY) as response:
                validator = DownloadValidator(
                    fetch.job_id, response.status_code, response.headers, fetch.job_type
                )
                async with _in_a_thread(fetch.target.open_atomic()) as write:

                    def write_all(chunks: list[bytes]) -> None:
                        for chunk in chunks:
                            write(validator.feed(chunk))

                    async for chunks in _by_the_megabyte(response.aiter_raw()):
                        await asyncio.to_thread(write_all, chunks)
                    validator.close()
        except CANNOT_TALK as error:
            raise download_failed(
                fetch.job_id, describe_error(error), job_type=fetch.job_type
            ) from safe_cause(error)


@asynccontextmanager
async def _in_a_thread(context: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Opening and moving files blocks."""
    value = await asyncio.to_thread(context.__enter__)
    try:
        yield value
    except BaseException as error:
        if not await asyncio.to_thread(context.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(context.__exit__, None, None, None)


async def _by_the_megabyte(chunks: AsyncIterable[bytes]) -> AsyncIterator[list[bytes]]:
    """What comes from a socket comes in small pieces, each of which is not worth a thread."""
    some: list[bytes] = []
    async for chunk in chunks:
        some.append(chunk)
        if sum(map(len, some)) >= 1 << 20:
            yield some
            some = []
    yield some


async def _off_the_loop(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
