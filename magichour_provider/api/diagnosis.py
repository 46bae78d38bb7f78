"""
Why a connection does not work, for the person who pressed *Test*: what is wrong, and how to fix it.

The cause is read from the errors of the standard library in the chain, so nothing here depends on httpx.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from magichour_provider import exceptions as errors
from magichour_provider.api.wire import BASE_URL

_NO_WAY = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN})


def diagnosis(error: errors.RequestFailed, *, base_url: str, proxy: str | None, timeout: float) -> str:
    """
    What is wrong, the remedy, and the error itself in brackets.

    :param proxy: the connection's own.
    :param timeout: seconds that the call was given.
    """
    if isinstance(error, errors.Unavailable) and not error.sent:
        words = _not_reached(error, base_url, proxy, timeout)
    elif error.status_code is None:
        words = _not_answered(error, host_and_port(base_url), timeout)
    else:
        words = _answered(error, error.status_code, host_and_port(base_url))
    return f"{words} ({type(error).__name__}: {error})"


def host_and_port(url: str) -> str:
    """Where a URL leads, without the name and password of a user."""
    return urlsplit(url).netloc.rpartition("@")[2]


def environment_proxy(base_url: str) -> str | None:
    """The proxy that the environment variables name for this URL, as httpx reads them."""
    url = urlsplit(base_url)
    if proxy_bypass(url.netloc):
        return None
    proxies = getproxies()
    found = proxies.get(url.scheme) or proxies.get("all")
    return f"http://{found}" if found and "://" not in found else found


def _not_reached(error: errors.Unavailable, base_url: str, proxy: str | None, timeout: float) -> str:
    field, hop = "Base URL", base_url
    if proxy:
        field, hop = "Proxy", proxy
    elif from_environment := environment_proxy(base_url):
        field, hop = "the environment's proxy variables", from_environment
    place = host_and_port(hop)

    if _caused_by(error, socket.gaierror):
        return (
            f"Unknown name: {urlsplit(hop).hostname} has no address here. Check {field} for a typo, and that "
            "this machine has a network and DNS; if it reaches the internet only through a proxy, set Proxy."
        )
    if _caused_by(error, ConnectionRefusedError):
        return f"Refused: nothing listens at {place}. Check host and port in {field}, and that it runs."
    if _caused_by(error, ssl.SSLCertVerificationError):
        return (
            f"Certificate not trusted: that of {host_and_port(base_url)} is signed by an unknown CA. "
            "If a corporate proxy intercepts TLS, put the path of its CA bundle into Verify TLS."
        )
    if _caused_by(error, ssl.SSLError):
        return f"No TLS at {place}. Check scheme and port in {field}: http, or https?"
    if any(isinstance(cause, OSError) and cause.errno in _NO_WAY for cause in _chain(error)):
        return f"No network: there is no way from here to {place}. Check network, firewall and Proxy."
    if _caused_by(error, TimeoutError):
        return (
            f"No connection to {place} within {timeout:g} s, as when a firewall drops it. Check network, "
            f"firewall and {field}; if the internet is reached through a proxy only, fill in Proxy."
        )
    if hop is not base_url:
        return f"The proxy at {place} does not let the call through. Check {field}: address, user, password."
    return f"No connection to {place}. Check Base URL, network and Proxy."


def _not_answered(error: errors.RequestFailed, place: str, timeout: float) -> str:
    what = (
        f"has not answered within {timeout:g} s"
        if _caused_by(error, TimeoutError)
        else "closed the connection"
    )
    return (
        f"No answer: {place} accepted the call, and {what}. Try again; if it stays so, check Base URL and "
        "Proxy, and whether Magic Hour is up."
    )


def _answered(error: errors.RequestFailed, status: int, place: str) -> str:
    if status in range(300, 400):
        return f"{place} redirects the call. Base URL must be the API itself, such as {BASE_URL}."
    if status == 407:
        return "The proxy wants a user and a password. Put them into Proxy: http://user:password@host:port."
    if error.by_page:
        return (
            f"A web page came for {place}, not the API: a proxy's or gateway's (log in there, or fill in "
            f"Proxy), or a web site's (correct Base URL; the API is at {BASE_URL})."
        )
    if error.by_vendor and status == 401:
        return "Wrong key: Magic Hour does not accept it. Copy it into API key again."
    if error.by_vendor and status in (402, 403):
        return "The key is known, but refused. Check the account."
    if status == 429:
        return "Too many requests just now. Try again in a minute."
    if status >= 500:
        return (
            f"{place} answers, but has a problem. Try again; if it stays so, check whether Magic Hour is up."
        )
    return f"Wrong host: {place} is not Magic Hour's API. Check Base URL; if it is empty, it is {BASE_URL}."


def _caused_by(error: BaseException, error_cls: type[BaseException]) -> bool:
    return any(isinstance(cause, error_cls) for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
