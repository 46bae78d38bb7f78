"""How to reach the API: address, key, proxy, TLS, timeout, headers. Both clients use it."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from magichour_provider import __version__
from magichour_provider.api import wire
from magichour_provider.api.jobs import JobType
from magichour_provider.api.polling import PollSchedule
from magichour_provider.exceptions import InvalidConnection

IDENTITY = {"Accept-Encoding": "identity"}  # Content-Length is then the length of the file
MIN_FRAGMENT = 8  # the least number of characters of the key in base64 that are worth a search


@dataclass(frozen=True)
class Settings:
    """
    How to reach the API.

    :param timeout: the maximum duration of one API call in seconds, and of one pause without bytes within a
        transfer.
    :param proxy: URL of a proxy for all requests; default: the usual environment variables.
    :param verify: check TLS certificates: True, False, or the path of a CA bundle.
    :param poll_interval: seconds between two polls of a job; default: the schedule decides.
    :param requests_per_second: the limit of polls by all users of one async client.
    :param strict: after a 502 or 503 to a paid call the outcome is uncertain, even if the body is the
        vendor's JSON.
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

    def __post_init__(self) -> None:
        if not self.api_key.isascii():
            raise InvalidConnection("the API key has a character that no API key has; copy it again")

    @property
    def connect_timeout(self) -> float:
        """The maximum duration of one attempt to connect, in seconds."""
        return min(10.0, self.timeout)

    def url(self, path: str) -> str:
        """The URL of a route of the API."""
        return self.base_url.rstrip("/") + path

    def headers(self) -> dict[str, str]:
        """The headers of every request to the API. They contain the key."""
        return {
            "Authorization": f"Bearer {self.api_key}",
            "User-Agent": f"airflow-provider-magichour/{__version__}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            **IDENTITY,
        }

    def ssl_context(self) -> ssl.SSLContext:
        """
        The TLS context for all requests.

        Loading CA certificates blocks for 0.1-0.4 s: do it once, and not in an event loop.

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

    def schedule(
        self, poll_interval: float | None = None, *, job_type: JobType = "video", **known: Any
    ) -> PollSchedule:
        """
        When to poll a job.

        :param known: what is known about the job: see ``PollSchedule``.
        """
        return PollSchedule(self.poll_interval if poll_interval is None else poll_interval, job_type, **known)

    def redact(self, text: str) -> str:
        """
        The text without the API key: plain, in base64, or spelled in the escapes of JSON, URLs or HTML.

        Give it decoded text. It does not change the rest of the text, nor the signatures of URLs.
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
        r"""
        Each character as itself, ``\u006d``, ``\x6d``, ``%6d``, ``&#x6d;`` or ``&#109;``.

        Repetitions are bounded, and no two of them can take the same characters: otherwise a hostile answer
        could take hours.
        """

        def spellings(character: str) -> str:
            code = ord(character)
            escaped = (
                rf"(?i:(?:(?<=\\)(?:u00|x)|%(?:25){{0,64}}|&#x0{{0,64}}){code:02x};?|&#0{{0,64}}{code};?)"
            )
            return rf"\\{{0,64}}(?:{re.escape(character)}|{escaped})"

        return re.compile("".join(map(spellings, self.api_key)))


def check_base_url(settings: Settings) -> None:
    """
    Check the base URL before a call. httpx would find the error only while it sends, and a paid call would
    then be uncertain.

    :raises InvalidConnection: it is not usable.
    """
    try:
        url = httpx.URL(settings.url(""))
        url.host.encode("idna")
        is_usable = url.scheme in ("http", "https") and url.host
    except (httpx.InvalidURL, UnicodeError):  # the error may quote a password
        is_usable = False
    if not is_usable:
        raise InvalidConnection("the base URL is not a usable http(s) URL; check the connection's host")


def api_proxy(settings: Settings) -> str | None:
    """
    The URL of the proxy for requests to the API: the connection's, or the environment's.

    Call it in ``translate_proxy_errors``.

    :raises InvalidConnection: it is a SOCKS proxy. aiohttp does not support SOCKS, and a wait must not fail
        after the job is paid for. So neither client accepts one.
    """
    proxy = settings.proxy or environment_proxy(settings.base_url)
    if not proxy:
        return None
    if urlsplit(proxy).scheme.startswith("socks"):
        raise InvalidConnection(
            "the proxy is a SOCKS proxy, which is not supported; give the connection an HTTP proxy, or "
            "exclude the API's host from ALL_PROXY with NO_PROXY"
        )
    httpx.Proxy(proxy)  # checks the URL
    return proxy


def environment_proxy(base_url: str) -> str | None:
    """The proxy that the environment variables name for this URL, as httpx reads them."""
    url = urlsplit(base_url)
    if proxy_bypass(url.netloc):
        return None
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    return f"http://{found}" if found and "://" not in found else found


@contextmanager
def translate_proxy_errors() -> Iterator[None]:
    """
    Turn errors of a proxy URL into ``InvalidConnection``. A client reads the URLs of the connection and of
    the environment when it is created.
    """
    try:
        yield
    except InvalidConnection:
        raise
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        cause = None if isinstance(error, httpx.InvalidURL) else error  # InvalidURL may quote a password
        raise InvalidConnection(
            f"the proxy cannot be used ({cause or 'its URL is not valid'}); check the connection's proxy, "
            "and HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
        ) from cause
