"""
The API over httpx: the flows of ``flows.py``, run by two thin drivers. No Airflow here.

Three rules stand above all others:

- A call that pays goes out on a connection of its own (a kept-alive one that the server has closed looks
  like a lost answer) and is repeated only when no byte of it was sent, or after HTTP 429, which makes no job.
- Every API call ends within ``timeout`` seconds in all, however slowly an answer drips.
- The key goes to the API's host alone: signed URLs are used through a second httpx client that holds no key.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self, TypeVar, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import tenacity

from magichour_provider import __version__, flows, wire
from magichour_provider.arrival import Arrival, download_failed
from magichour_provider.exceptions import InvalidConnection, MagicHourError
from magichour_provider.flows import Fetch, Flow, Put, Sleep, Source, Target, Together
from magichour_provider.schedule import Rhythm, Schedule
from magichour_provider.watch import Watch
from magichour_provider.wire import JobKind

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
MOST_CONNECTIONS = 16

_CANNOT_TALK = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_IDENTITY = {"Accept-Encoding": "identity"}  # so that Content-Length is the file's


@dataclass(frozen=True)
class Settings:
    """
    How to reach the API.

    :param timeout: seconds for one API call in all, and for one silence within a transfer.
    :param proxy: URL of a proxy for everything; without it the usual environment variables count.
    :param verify: check TLS certificates: True, False, or the path of a CA bundle.
    :param poll_interval: seconds between two looks at a job; without it the schedule decides.
    :param requests_per_second: at most so many looks, by all who share an async client.
    """

    api_key: str = field(repr=False)
    base_url: str = wire.BASE_URL
    timeout: float = 60.0
    proxy: str | None = field(default=None, repr=False)
    verify: bool | str = True
    poll_interval: float | None = None
    requests_per_second: float | None = None

    def ssl_context(self) -> ssl.SSLContext:
        """
        Loading CA certificates blocks for 0.1-0.4 s: do it once, and off the event loop.

        :raises InvalidConnection: there is no CA bundle at ``verify``.
        """
        if isinstance(self.verify, str):
            try:
                return ssl.create_default_context(cafile=self.verify)
            except OSError as error:
                raise InvalidConnection.of(
                    "verify", self.verify, f"cannot be read as a CA bundle ({error}); check the path"
                ) from error
        return httpx.create_ssl_context(verify=self.verify)

    def redact(self, body: bytes) -> bytes:
        """Whatever the API says, it does not get the key into an error or a log."""
        return body.replace(self.api_key.encode(), b"***")

    def schedule(
        self,
        poll_interval: float | None = None,
        rhythm: Rhythm | None = None,
        kind: JobKind = "video",
    ) -> Schedule:
        return Schedule(
            self.poll_interval if poll_interval is None else poll_interval, rhythm or Rhythm(), kind
        )

    def for_storage(self, tls: ssl.SSLContext) -> dict[str, Any]:
        """Arguments of an httpx client for signed URLs, without the key."""
        return {
            "verify": tls,
            "proxy": self.proxy,
            "timeout": httpx.Timeout(self.timeout, connect=min(10.0, self.timeout), pool=None),
            "follow_redirects": True,
        }


class MagicHourClient:
    """
    The API, blocking. Close it, or use it in a ``with``.

    :raises RequestFailed: from every method; the subclass says why; nothing was charged.
    """

    def __init__(self, settings: Settings) -> None:
        _silence_httpx()
        self._settings = settings
        tls = settings.ssl_context()
        with _usable_proxies():
            self._api = _Api(settings, tls)
            self._storage = httpx.Client(**settings.for_storage(tls))
        self.rhythm = Rhythm(settings.requests_per_second)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._storage.close()

    def submit(self, call: wire.Call[wire.Submission]) -> wire.Submission:
        """
        Start a paid job and return at once.

        :param call: from ``wire.create_talking_photo`` or ``wire.create_voice``.
        :returns: the accepted job; ``credits_charged`` is an estimate until it is complete.
        :raises InsufficientCredits: HTTP 402; nothing charged; permanent.
        :raises SubmissionUncertain: sent, no answer; a job may exist; never sent again.

        Source: POST /v1/ai-talking-photo, POST /v1/ai-voice-generator.
        """
        return self._perform(lambda: flows.just(call), flows.REPEAT_UNPAID)

    def get(self, job_id: str, kind: JobKind = "video") -> wire.Job:
        """
        The job as it is now; free.

        :raises NotFound: the account does not know the job.

        Source: GET /v1/video-projects/{id}, GET /v1/audio-projects/{id}.
        """
        return self._perform(lambda: flows.just(wire.get_job(job_id, kind)))

    def wait(
        self,
        job_id: str,
        kind: JobKind = "video",
        *,
        deadline: float,
        poll_interval: float | None = None,
        **how: Any,
    ) -> wire.Job:
        """
        Look until the job has ended, well or not; free.

        :param deadline: seconds since the epoch.
        :param poll_interval: seconds between two looks, rather than the connection's or the schedule's.
        :param how: see ``flows.wait``.
        :raises WaitTimeout: not ended by then; it goes on, and can be waited for again.
        """
        schedule = self._settings.schedule(poll_interval, self.rhythm, kind)
        return self._run(flows.wait(job_id, deadline=deadline, schedule=schedule, **how))

    def upload(self, sources: Sequence[Source]) -> list[str]:
        """
        Put files into Magic Hour's storage, where they are kept for 7 days; free.

        :returns: their ``api-assets/`` paths, in the order of ``sources``.
        :raises UploadFailed: nothing was charged; retryable.

        Source: POST /v1/files/upload-urls, then PUT.
        """
        done: dict[int, str] = {}
        return self._perform(lambda: flows.upload(sources, done))

    def completed(self, job_id: str, kind: JobKind = "video") -> tuple[wire.Job, wire.Download]:
        """
        A job that has ended well, and a fresh signed URL of what it made; free.

        :raises DownloadFailed: there is no URL (yet); the job is paid for; retryable.
        :raises JobEnded: the job has made nothing.
        """
        return self._perform(lambda: flows.completed(job_id, kind))

    def download(self, job_id: str, target: Target, kind: JobKind = "video") -> wire.Job:
        """
        Bring what a complete job made to ``target``, whole or not at all; free.

        :raises DownloadFailed: it is paid for and stays at Magic Hour; retryable.
        :raises JobEnded: the job has made nothing.
        """
        return self._perform(lambda: flows.download(job_id, target, kind))

    def delete(self, job_id: str, kind: JobKind = "video") -> None:
        """
        Delete what the job made for ever. Not a cancel: nothing is refunded.

        Source: DELETE /v1/video-projects/{id}, DELETE /v1/audio-projects/{id}.
        """
        self._perform(lambda: flows.just(wire.delete_job(job_id, kind)))

    def account(self, *, once: bool = False) -> wire.Account:
        """
        The key's account: its tier and the credits left; free.

        :param once: when it cannot be asked, say so at once rather than try again.

        Source: GET /v1/account.
        """
        policy = flows.ONCE if once else flows.REPEAT_FREE
        return self._perform(lambda: flows.just(wire.get_account()), policy)

    def _perform(self, attempt: Callable[[], Flow[T]], policy: dict[str, Any] = flows.REPEAT_FREE) -> T:
        return tenacity.Retrying(**policy)(lambda: self._run(attempt()))

    def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    outcome = self._do(step)
                except MagicHourError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            return cast(T, end.value)

    def _do(self, step: object) -> object:
        match step:
            case wire.Call():
                return self._call(step)
            case Together(steps):
                threads = ThreadPoolExecutor(len(steps))
                try:
                    return [put.exception() for put in [threads.submit(self._put, step) for step in steps]]
                finally:  # not a "with": whoever stops the task need not wait for an upload that drips
                    threads.shutdown(wait=False)
            case Fetch():
                self._fetch(step)
            case Sleep(seconds):
                time.sleep(seconds)
        return None

    def _call(self, call: wire.Call[T]) -> T:
        watch = Watch()
        try:
            # Nothing is kept alive: blocking calls are so far apart that a kept connection is mostly stale.
            with watch.limit(self._settings.timeout), self._api.connection() as connection:
                response = connection.handle_request(self._api.request(call, watch.note))
                response.read()
        except (TimeoutError, *_CANNOT_TALK) as error:
            _not_answered(call, watch, error)
        return call.answer(response.status_code, response.headers, self._settings.redact(response.content))

    def _put(self, put: Put) -> None:
        length = {"Content-Length": str(put.source.size)}
        try:
            response = self._storage.put(
                put.url, content=put.source.chunks(), headers=length, follow_redirects=False
            )
        except _CANNOT_TALK as error:
            raise flows.upload_failed(put.source, _why(error)) from _shown(error)
        _check_put(put, response)

    def _fetch(self, fetch: Fetch) -> None:
        try:
            with self._storage.stream("GET", fetch.url, headers=_IDENTITY) as response:
                arrival = Arrival(fetch.job_id, response.status_code, response.headers, fetch.kind)
                with fetch.target.writing() as write:
                    for chunk in response.iter_raw():
                        write(arrival.check(chunk))
                    arrival.finish()
        except _CANNOT_TALK as error:
            raise download_failed(fetch.job_id, _why(error), kind=fetch.kind) from _shown(error)


class AsyncMagicHourClient:
    """
    The API for an event loop: the same methods, errors and promises as ``MagicHourClient``.

    :param tls: from ``Settings.ssl_context``, which blocks: call it off the loop.
    :param rhythm: what is known of the connection's render times and limits; default: nothing yet.
    """

    def __init__(self, settings: Settings, tls: ssl.SSLContext, rhythm: Rhythm | None = None) -> None:
        _silence_httpx()
        self._settings = settings
        with _usable_proxies():
            self._api = _Api(settings, tls)
            self._storage = httpx.AsyncClient(**settings.for_storage(tls))
        self.rhythm = rhythm or Rhythm(settings.requests_per_second)
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
        return await self._perform(lambda: flows.just(call), flows.REPEAT_UNPAID)

    async def get(self, job_id: str, kind: JobKind = "video") -> wire.Job:
        """See ``MagicHourClient.get``."""
        return await self._perform(lambda: flows.just(wire.get_job(job_id, kind)))

    async def wait(
        self,
        job_id: str,
        kind: JobKind = "video",
        *,
        deadline: float,
        poll_interval: float | None = None,
        **how: Any,
    ) -> wire.Job:
        """See ``MagicHourClient.wait``."""
        schedule = self._settings.schedule(poll_interval, self.rhythm, kind)
        return await self._run(flows.wait(job_id, deadline=deadline, schedule=schedule, **how))

    async def upload(self, sources: Sequence[Source]) -> list[str]:
        """See ``MagicHourClient.upload``."""
        done: dict[int, str] = {}
        return await self._perform(lambda: flows.upload(sources, done))

    async def completed(self, job_id: str, kind: JobKind = "video") -> tuple[wire.Job, wire.Download]:
        """See ``MagicHourClient.completed``."""
        return await self._perform(lambda: flows.completed(job_id, kind))

    async def download(self, job_id: str, target: Target, kind: JobKind = "video") -> wire.Job:
        """See ``MagicHourClient.download``."""
        return await self._perform(lambda: flows.download(job_id, target, kind))

    async def delete(self, job_id: str, kind: JobKind = "video") -> None:
        """See ``MagicHourClient.delete``."""
        await self._perform(lambda: flows.just(wire.delete_job(job_id, kind)))

    async def account(self, *, once: bool = False) -> wire.Account:
        """See ``MagicHourClient.account``."""
        policy = flows.ONCE if once else flows.REPEAT_FREE
        return await self._perform(lambda: flows.just(wire.get_account()), policy)

    async def _perform(self, attempt: Callable[[], Flow[T]], policy: dict[str, Any] = flows.REPEAT_FREE) -> T:
        async def once() -> T:
            return await self._run(attempt())

        return await tenacity.AsyncRetrying(**policy)(once)

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    outcome = await self._do(step)
                except MagicHourError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(outcome)
        except StopIteration as end:
            return cast(T, end.value)

    async def _do(self, step: object) -> object:
        match step:
            case wire.Call():
                return await self._call(step)
            case Together(steps):
                return await asyncio.gather(*map(self._put, steps), return_exceptions=True)
            case Fetch():
                await self._fetch(step)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
        return None

    async def _call(self, call: wire.Call[T]) -> T:
        if self._storage.is_closed:
            raise RuntimeError("This client has been closed; whoever shares it must stay in its async with")
        watch = Watch()
        try:
            async with (
                self._gate,
                asyncio.timeout(self._settings.timeout),
                self._connection(call) as connection,
            ):
                # To watch costs as much as half the call, and only for one that pays must it be certain.
                request = self._api.request(call, watch.anote if call.pays else None)
                response = await connection.handle_async_request(request)
                await response.aread()
        except (TimeoutError, *_CANNOT_TALK) as error:
            _not_answered(call, watch, error)
        return call.answer(response.status_code, response.headers, self._settings.redact(response.content))

    @asynccontextmanager
    async def _connection(self, call: wire.Call[Any]) -> AsyncIterator[httpx.AsyncHTTPTransport]:
        if call.pays:
            async with self._api.async_connection() as fresh:
                yield fresh
            return
        kept = self._idle.pop() if self._idle else self._api.async_connection()
        try:
            yield kept
        finally:
            self._idle.append(kept)

    async def _put(self, put: Put) -> None:
        length = {"Content-Length": str(put.source.size)}
        chunks = _off_the_loop(put.source.chunks())
        try:
            response = await self._storage.put(
                put.url, content=chunks, headers=length, follow_redirects=False
            )
        except _CANNOT_TALK as error:
            raise flows.upload_failed(put.source, _why(error)) from _shown(error)
        _check_put(put, response)

    async def _fetch(self, fetch: Fetch) -> None:
        try:
            async with self._storage.stream("GET", fetch.url, headers=_IDENTITY) as response:
                arrival = Arrival(fetch.job_id, response.status_code, response.headers, fetch.kind)
                async with _in_a_thread(fetch.target.writing()) as write:
                    async for chunk in response.aiter_raw(CHUNK_BYTES):
                        await asyncio.to_thread(write, arrival.check(chunk))
                    arrival.finish()
        except _CANNOT_TALK as error:
            raise download_failed(fetch.job_id, _why(error), kind=fetch.kind) from _shown(error)


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


async def _off_the_loop(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


# --- what both drivers hold to ---


class _Api:
    """What goes to the API's host, and nowhere else: it holds the key."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext) -> None:
        self._base_url = settings.base_url.rstrip("/")
        self._headers = httpx.Headers(
            {
                "Authorization": f"Bearer {settings.api_key}",
                "User-Agent": f"airflow-provider-magichour/{__version__}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                **_IDENTITY,
            }
        )
        url = urlsplit(self._base_url)
        proxy = settings.proxy
        if proxy is None and not proxy_bypass(url.netloc):  # only whole clients ask the environment
            proxy = getproxies().get(url.scheme) or getproxies().get("all")
        if proxy and "://" not in proxy:
            proxy = f"http://{proxy}"
        self._how: dict[str, Any] = {"verify": tls, "proxy": httpx.Proxy(proxy) if proxy else None}
        self._timeout = {"timeout": settings.for_storage(tls)["timeout"].as_dict()}
        self.connection().close()

    def request(self, call: wire.Call[Any], trace: Callable[..., Any] | None) -> httpx.Request:
        extensions = {**self._timeout, "trace": trace} if trace else self._timeout
        return httpx.Request(
            call.method,
            self._base_url + call.path,
            headers=self._headers,
            content=call.body,
            extensions=extensions,
        )

    def connection(self) -> httpx.HTTPTransport:
        return httpx.HTTPTransport(**self._how, limits=httpx.Limits(max_connections=1))

    def async_connection(self) -> httpx.AsyncHTTPTransport:
        kept = httpx.Limits(max_connections=1, keepalive_expiry=60)
        return httpx.AsyncHTTPTransport(**self._how, limits=kept)


@contextmanager
def _usable_proxies() -> Iterator[None]:
    """httpx looks at the proxies when it is made: the connection's, or the environment's."""
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise InvalidConnection(
            f"the proxy cannot be used ({error}); check the connection's proxy, and HTTP_PROXY, HTTPS_PROXY, "
            "ALL_PROXY and NO_PROXY"
        ) from error


def _not_answered(call: wire.Call[Any], watch: Watch, error: Exception) -> NoReturn:
    sent = watch.sent or not (call.pays or isinstance(error, _NOT_SENT))
    if isinstance(error, TimeoutError) or watch.expired_after is not None:
        why = "no whole answer in time" if sent else "no connection in time"
        error = TimeoutError(why)
    else:
        why = _why(error)
    call.no_answer(why if sent else f"could not be sent: {why}", sent=sent, cause=_shown(error))


def _check_put(put: Put, response: httpx.Response) -> None:
    # The body is the storage host's and may repeat the signature: it is not shown.
    if not response.is_success:
        status = response.status_code
        raise flows.upload_failed(put.source, f"the storage host answered HTTP {status}", status)


def _why(error: Exception) -> str:
    said = str(_shown(error) or "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _shown(error: Exception) -> Exception | None:
    """A violation of the protocol is quoted by what the peer sent, which may be the key or a signature."""
    return None if isinstance(error, httpx.ProtocolError) else error


def _silence_httpx() -> None:
    """httpx logs whole URLs, signatures included, at INFO; httpcore logs headers at DEBUG."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
