"""What both clients hold to: how the API is reached, what goes there, and what became of it in our words."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from magichour_provider import __version__
from magichour_provider.api import flows, wire
from magichour_provider.api.client.tracking import SendTracker
from magichour_provider.api.flows import Put
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import PollLimiter, PollSchedule
from magichour_provider.exceptions import InvalidConnection

MAX_ANSWER_BYTES = 1 << 20  # of the body of an answer from the API
CANNOT_TALK = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
IDENTITY = {"Accept-Encoding": "identity"}  # so that Content-Length is the file's


@dataclass(frozen=True)
class Settings:
    """
    How to reach the API.

    :param timeout: seconds for one API call in all, and for one silence within a transfer.
    :param proxy: URL of a proxy for everything; without it the usual environment variables count.
    :param verify: check TLS certificates: True, False, or the path of a CA bundle.
    :param poll_interval: seconds between two looks at a job; without it the schedule decides.
    :param requests_per_second: at most so many polls, by all who share an async client.
    :param strict: a 502 or 503 in the vendor's JSON does not prove that a paid call made no job.
    :param webhooks: the vendor sends events of the jobs.
    """

    api_key: str = field(repr=False)
    base_url: str = wire.BASE_URL
    timeout: float = 60.0
    proxy: str | None = field(default=None, repr=False)
    verify: bool | str = True
    poll_interval: float | None = None
    requests_per_second: float | None = None
    strict: bool = False
    webhooks: bool = False

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
        limiter: PollLimiter | None = None,
        job_type: JobType = "video",
    ) -> PollSchedule:
        return PollSchedule(
            self.poll_interval if poll_interval is None else poll_interval, limiter or PollLimiter(), job_type
        )

    def for_storage(self, tls: ssl.SSLContext) -> dict[str, Any]:
        """Arguments of an httpx client for signed URLs, without the key."""
        return {
            "verify": tls,
            "proxy": self.proxy,
            "timeout": httpx.Timeout(self.timeout, connect=min(10.0, self.timeout), pool=None),
            "follow_redirects": True,
        }


def api_headers(settings: Settings) -> dict[str, str]:
    """Headers of every request to the API; they hold the key."""
    return {
        "Authorization": f"Bearer {settings.api_key}",
        "User-Agent": f"airflow-provider-magichour/{__version__}",
        "Content-Type": "application/json",
        "Accept": "application/json",
        **IDENTITY,
    }


def api_proxy(settings: Settings) -> str | None:
    """
    URL of the proxy for requests to the API: the connection's, or the environment's.

    :raises InvalidConnection: it is a SOCKS proxy. aiohttp has no SOCKS, and a wait must not fail for that
        once the job is paid for: so neither client takes one.
    """
    url = urlsplit(settings.base_url)
    proxy = settings.proxy
    if proxy is None and not proxy_bypass(url.netloc):
        proxy = getproxies().get(url.scheme) or getproxies().get("all")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and urlsplit(proxy).scheme.startswith("socks"):
        raise InvalidConnection(
            "the proxy is a SOCKS proxy, which is not supported; give the connection an HTTP proxy, or "
            "exclude the API's host from ALL_PROXY with NO_PROXY"
        )
    return proxy or None


class ApiTransport:
    """What goes to the API's host, and nowhere else: it holds the key."""

    def __init__(self, settings: Settings, tls: ssl.SSLContext) -> None:
        self._base_url = settings.base_url.rstrip("/")
        self._headers = httpx.Headers(api_headers(settings))
        proxy = api_proxy(settings)
        self._how: dict[str, Any] = {"verify": tls, "proxy": httpx.Proxy(proxy) if proxy else None}
        self._timeouts = settings.for_storage(tls)["timeout"].as_dict()
        self.connection().close()

    def request(self, call: wire.Call[Any], trace: Callable[..., Any]) -> httpx.Request:
        return httpx.Request(
            call.method,
            self._base_url + call.path,
            headers=self._headers,
            content=call.body,
            extensions={"timeout": self._timeouts, "trace": trace},
        )

    def connection(self) -> httpx.HTTPTransport:
        return httpx.HTTPTransport(**self._how, limits=httpx.Limits(max_connections=1))


@contextmanager
def proxy_errors() -> Iterator[None]:
    """httpx looks at the proxies when it is made: the connection's, or the environment's."""
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise InvalidConnection(
            f"the proxy cannot be used ({error}); check the connection's proxy, and HTTP_PROXY, HTTPS_PROXY, "
            "ALL_PROXY and NO_PROXY"
        ) from error


def not_answered(call: wire.Call[Any], tracker: SendTracker, error: Exception) -> NoReturn:
    sent = tracker.sent or not (call.pays or isinstance(error, _NOT_SENT))
    if isinstance(error, TimeoutError) or tracker.expired_after is not None:
        error = TimeoutError("no whole answer in time" if sent else "no connection in time")
        reason = str(error)
    else:
        reason = describe_error(error)
    call.no_answer(reason if sent else f"could not be sent: {reason}", sent=sent, cause=safe_cause(error))


def check_put(put: Put, response: httpx.Response) -> None:
    # The body is the storage host's and may repeat the signature: it is not shown.
    if not response.is_success:
        status = response.status_code
        raise flows.upload_failed(put.source, f"the storage host answered HTTP {status}", status)


def describe_error(error: Exception) -> str:
    said = str(safe_cause(error) or "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def safe_cause(error: Exception) -> Exception | None:
    """A violation of the protocol is quoted by what the peer sent, which may be the key or a signature."""
    return None if isinstance(error, httpx.ProtocolError) else error


def silence_httpx() -> None:
    """httpx logs whole URLs, signatures included, at INFO; httpcore logs headers at DEBUG."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
