"""
Why a connection does not work, for whoever pressed *Test*: what is wrong, and what to do about it.

The cause is read from the standard library's errors in the chain, so nothing here knows httpx.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit
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
    api = urlsplit(base_url)
    if isinstance(error, errors.Unavailable) and not error.sent:
        words = _not_reached(error, api, proxy, timeout)
    elif error.status_code is None:
        words = _not_answered(error, _place(api), timeout)
    else:
        words = _answered(error, error.status_code, _place(api))
    return f"{words} ({type(error).__name__}: {error})"


def _not_reached(error: errors.Unavailable, api: SplitResult, proxy: str | None, timeout: float) -> str:
    field, hop = "Base URL", api
    if proxy:
        field, hop = "Proxy", urlsplit(proxy)
    elif (from_environment := _environment_proxy(api)) is not None:
        field, hop = "the environment's proxy variables", from_environment
    place = _place(hop)

    if _caused_by(error, socket.gaierror):
        return (
            f"Unknown name: {hop.hostname} has no address here. Check {field} for a typo, and that this "
            "machine has a network and DNS; if it reaches the internet through a proxy only, fill in Proxy."
        )
    if _caused_by(error, ConnectionRefusedError):
        return f"Refused: nothing listens at {place}. Check host and port in {field}, and that it runs."
    if _caused_by(error, ssl.SSLCertVerificationError):
        return (
            f"Certificate not trusted: the one shown for {_place(api)} is signed by nobody this machine "
            "knows. If your company's proxy signs anew, put the path of its CA bundle into Verify TLS."
        )
    if _caused_by(error, ssl.SSLError):
        return f"No TLS at {place}. Check scheme and port in {field}: http, or https?"
    if any(isinstance(cause, OSError) and cause.errno in _NO_WAY for cause in _chain(error)):
        return f"No network: there is no way from here to {place}. Check network, firewall and Proxy."
    if _caused_by(error, TimeoutError):
        return (
            f"No connection to {place} within {timeout:g} s, as when a firewall swallows it. Check network, "
            f"firewall and {field}; if the internet is reached through a proxy only, fill in Proxy."
        )
    if hop is not api:
        return f"The proxy at {place} does not let the call through. Check {field}: address, user, password."
    return f"No connection to {place}. Check Base URL, network and Proxy."


def _not_answered(error: errors.RequestFailed, place: str, timeout: float) -> str:
    what = f"has not answered within {timeout:g} s" if _caused_by(error, TimeoutError) else "hung up"
    return (
        f"No answer: {place} took the call, and {what}. Try again; if it stays so, check Base URL and Proxy, "
        "and whether Magic Hour is up."
    )


def _answered(error: errors.RequestFailed, status: int, place: str) -> str:
    if status in range(300, 400):
        return f"{place} sends the call elsewhere. Base URL must be the API itself: {BASE_URL}, say."
    if error.by_page:
        return (
            f"A web page came for {place}, not the API: a proxy's or gateway's (log in there, or fill in "
            f"Proxy), or a web site's (mend Base URL; the API is at {BASE_URL})."
        )
    if error.by_vendor and status == 401:
        return "Wrong key: Magic Hour does not accept it. Copy it anew into API key."
    if error.by_vendor and status in (402, 403):
        return "The key is known, but refused. Look into the account."
    if status == 429:
        return "Too many requests just now. Try again in a minute."
    if status >= 500:
        return f"{place} is there, and in trouble. Try again; if it stays so, check whether Magic Hour is up."
    return (
        f"Wrong host: what answers at {place} is not Magic Hour's API. Check Base URL; "
        f"empty, it is {BASE_URL}."
    )


def _place(url: SplitResult) -> str:
    """Host and port, without a user's name and password."""
    return url.netloc.rpartition("@")[2]


def _environment_proxy(api: SplitResult) -> SplitResult | None:
    if proxy_bypass(api.netloc):
        return None
    proxies = getproxies()
    found = proxies.get(api.scheme) or proxies.get("all")
    return urlsplit(found if "://" in found else f"http://{found}") if found else None


def _caused_by(error: BaseException, error_cls: type[BaseException]) -> bool:
    return any(isinstance(cause, error_cls) for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
