"""What both clients share: the settings, requests to the API, and the words for a call that failed."""

from __future__ import annotations

import base64
import logging
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import httpx

from magichour_provider import __version__
from magichour_provider.api import flows, models, wire
from magichour_provider.api.diagnosis import environment_proxy, host_and_port
from magichour_provider.api.flows import Source
from magichour_provider.api.integrity import ContentDecoder, NotWhole
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import PollSchedule
from magichour_provider.exceptions import InvalidConnection

T = TypeVar("T")

# UnicodeError: a host name that DNS cannot hold, such as "a..b".
CANNOT_TALK = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, UnicodeError)
IDENTITY = {"Accept-Encoding": "identity"}  # Content-Length is then the length of the file
MAX_ANSWER_BYTES = 1 << 20  # of an answer of the API; a job is about 1 kB
MAX_REDIRECTS = 5  # of one upload
MIN_FRAGMENT = 8  # characters of the key in base64 that are worth a search


@dataclass(frozen=True)
class Settings:
    """
    How to reach the API.

    :param timeout: seconds for one whole API call, and for one pause without bytes within a transfer.
    :param proxy: URL of a proxy for everything; default: the usual environment variables.
    :param verify: check TLS certificates: True, False, or the path of a CA bundle.
    :param poll_interval: seconds between two polls of a job; default: the schedule decides.
    :param requests_per_second: the limit of polls by all users of one async client.
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

    def redact(self, text: str) -> str:
        """
        The text without the API key: plain, in base64, or spelled in the escapes of JSON, URLs or HTML.

        Give it decoded text. It leaves the rest of the text as it is, signatures of URLs too.
        """
        for fragment in self._key_fragments:
            text = text.replace(fragment, "***")
        if "\\" in text or "%" in text or "&#" in text:  # the pattern is slow
            text = self._escaped_key.sub("***", text)
        return text

    @cached_property
    def _key_fragments(self) -> tuple[str, ...]:
        """The key, and the part of its base64 that does not depend on the text around the key."""
        key = self.api_key.encode()
        found = [
            encode(bytes(before) + key).decode()[first : (before + len(key)) * 8 // 6]
            for before, first in enumerate((0, 2, 3))  # bytes before the key; the first character of the key
            for encode in (base64.b64encode, base64.urlsafe_b64encode)
        ]
        return (self.api_key, *dict.fromkeys(part for part in found if len(part) >= MIN_FRAGMENT))

    @cached_property
    def _escaped_key(self) -> re.Pattern[str]:
        r"""Each character as itself, ``\u006d``, ``\x6d``, ``%6d``, ``&#x6d;`` or ``&#109;``."""

        def spellings(character: str) -> str:
            code = ord(character)
            escaped = rf"(?i:(?:\\+(?:u00|x)|%(?:25)*|&#x0*){code:02x};?|&#0*{code};?)"
            return rf"\\*(?:{re.escape(character)}|{escaped})"

        return re.compile("".join(map(spellings, self.api_key)))

    def schedule(
        self, poll_interval: float | None = None, *, job_type: JobType = "video", **known: Any
    ) -> PollSchedule:
        """:param known: see ``PollSchedule``."""
        return PollSchedule(self.poll_interval if poll_interval is None else poll_interval, job_type, **known)

    def for_storage(self, tls: ssl.SSLContext) -> dict[str, Any]:
        """Arguments of an httpx client for signed URLs, without the key."""
        return {
            "verify": tls,
            "proxy": self.proxy,
            "timeout": httpx.Timeout(self.timeout, connect=min(10.0, self.timeout), pool=None),
            "follow_redirects": True,
            # So none stays open unused: uploads run side by side, and the download is minutes later.
            "limits": httpx.Limits(max_keepalive_connections=0),
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

    :raises InvalidConnection: it is a SOCKS proxy. aiohttp does not support SOCKS, and a wait must not fail
        after the job is paid for. So neither client accepts one.
    """
    proxy = settings.proxy or environment_proxy(settings.base_url)
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    if proxy and urlsplit(proxy).scheme.startswith("socks"):
        raise InvalidConnection(
            "the proxy is a SOCKS proxy, which is not supported; give the connection an HTTP proxy, or "
            "exclude the API's host from ALL_PROXY with NO_PROXY"
        )
    return proxy


class ApiTransport:
    """
    Requests to the API's host and to no other host. It holds the key, so it follows no redirect.

    :raises InvalidConnection: no request can be sent to ``base_url``.
    """

    def __init__(self, settings: Settings, tls: ssl.SSLContext) -> None:
        self._base_url = settings.base_url.rstrip("/")
        self._redact = settings.redact
        self._headers = httpx.Headers(api_headers(settings))
        _check_url(self._base_url)
        proxy = api_proxy(settings)
        self._route = host_and_port(self._base_url)
        if proxy:
            self._route += f" through the proxy {host_and_port(proxy)}"
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

    def answer(self, call: wire.Call[T], status: int, headers: Mapping[str, str], body: AnswerBody) -> T:
        """
        The answer as one of our types, or the error that it stands for.

        :raises RequestFailed: see ``wire.Call.answer``.
        :raises SubmissionUncertain: see ``wire.Call.answer``.
        """
        if body.problem and 200 <= status < 300:
            call.no_answer(f"HTTP {status}, but {body.problem}", status=status)
        return call.answer(status, headers, bytes(body.content), self._redact)

    def no_answer(self, call: wire.Call[Any], error: Exception, *, sent: bool, timed_out: bool) -> NoReturn:
        """
        Raise the error for a call that has no answer.

        :param sent: a byte of it may have left this machine.

        :raises SubmissionUncertain: only if the call pays and may have been sent.
        :raises Unavailable: otherwise.
        """
        if timed_out:
            error = TimeoutError("no whole answer in time" if sent else "no connection in time")
            reason = str(error)
        else:
            reason = self._redact(describe_error(error))
        what = "no answer from" if sent else "could not be sent to"
        call.no_answer(f"{what} {self._route}: {reason}", sent=sent, cause=safe_cause(error))


class AnswerBody:
    """
    The body of an answer of the API, decoded, up to ``MAX_ANSWER_BYTES``.

    :ivar problem: why the content is not complete, or None.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.content = bytearray()
        self.problem: str | None = None
        try:
            self._decoder = ContentDecoder(headers)
        except NotWhole as error:
            self.problem = str(error)

    def feed(self, chunk: bytes) -> bool:
        """Add a chunk from the socket. False: do not read on."""
        try:
            for piece in () if self.problem else self._decoder.feed(chunk):
                self.content += piece
                if len(self.content) > MAX_ANSWER_BYTES:
                    self.problem = f"it is longer than {MAX_ANSWER_BYTES} bytes, which is the limit here"
                    break
        except NotWhole as error:
            self.problem = str(error)
        return self.problem is None


def _check_url(base_url: str) -> None:
    """Find an error here that httpx finds only while it sends: then a paid call would be uncertain."""
    try:
        url = httpx.URL(base_url)
        url.host.encode("idna")
        is_usable = url.scheme in ("http", "https") and url.host
    except (httpx.InvalidURL, UnicodeError):  # it may quote a password
        is_usable = False
    if not is_usable:
        raise InvalidConnection("the base URL is not a usable http(s) URL; check the connection's host")


@contextmanager
def proxy_errors() -> Iterator[None]:
    """Errors of a proxy's URL. httpx reads the connection's and the environment's when a client is made."""
    try:
        yield
    except InvalidConnection:
        raise
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        cause = None if isinstance(error, httpx.InvalidURL) else error  # it may quote a password
        raise InvalidConnection(
            f"the proxy cannot be used ({cause or 'its URL is not valid'}); check the connection's proxy, "
            "and HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
        ) from cause


def redirected(response: httpx.Response) -> str | None:
    """
    The new address of an upload, if the storage host redirects it, as S3 does for another region.

    Never from https to http: that would show the file to the network.
    """
    if response.status_code not in (301, 302, 307, 308) or "location" not in response.headers:
        return None
    url = response.url.join(response.headers["location"])
    return str(url) if url.scheme in ("https", response.url.scheme) else None


def check_put(source: Source, response: httpx.Response) -> None:
    # The body is the storage host's and may repeat the signature: it is not shown.
    if not response.is_success:
        status = response.status_code
        raise flows.upload_failed(
            source, f"the storage host {response.url.host} answered HTTP {status}", status
        )


def storage_host(url: str) -> str:
    """The host of a signed URL, for a message: the rest of the URL is secret."""
    try:
        return urlsplit(url).hostname or "nowhere"
    except ValueError:
        return "nowhere"


def describe_error(error: Exception) -> str:
    text = models.clean(str(safe_cause(error) or ""))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def safe_cause(error: Exception) -> Exception | None:
    """The error, or None for a protocol error: that quotes the peer's bytes, maybe a key or a signature."""
    return None if isinstance(error, httpx.ProtocolError) else error


def silence_httpx() -> None:
    """httpx logs whole URLs, signatures included, at INFO; httpcore logs headers at DEBUG."""
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
