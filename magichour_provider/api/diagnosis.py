"""
Why a connection does not work, for the person who pressed *Test*: what is wrong, and how to correct it.

The cause is found by the errors of the standard library in the chain, so this module uses no class of httpx.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from magichour_provider import exceptions as errors
from magichour_provider.api.client.settings import environment_proxy
from magichour_provider.api.wire import BASE_URL
from magichour_provider.text import host_of

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EHOSTDOWN})


def diagnosis(error: errors.RequestFailed, *, base_url: str, proxy: str | None, timeout: float) -> str:
    """
    What is wrong, the remedy, and the error in brackets.

    :param proxy: the proxy in the connection.
    :param timeout: the maximum duration of the call, in seconds.
    """
    if isinstance(error, errors.Unavailable) and not error.sent:
        words = _not_reached(error, base_url, proxy, timeout)
    elif error.status_code is None:
        words = _not_answered(error, host_of(base_url), timeout)
    else:
        words = _answered(error, error.status_code, host_of(base_url))
    return f"{words} ({type(error).__name__}: {error})"


def _not_reached(error: errors.Unavailable, base_url: str, proxy: str | None, timeout: float) -> str:
    field, hop = "Base URL", base_url
    if proxy:
        field, hop = "Proxy", proxy
    elif from_environment := environment_proxy(base_url):
        field, hop = "the environment's proxy variables", from_environment
    place = host_of(hop)

    if _caused_by(error, socket.gaierror):
        return (
            f"Unknown name: {urlsplit(hop).hostname} has no address here. Check {field} for a typo, and "
            "network and DNS of this machine. If it reaches the internet only through a proxy, set Proxy."
        )
    if _caused_by(error, ConnectionRefusedError):
        return (
            f"Refused: nothing listens at {place}. Check host and port in {field}, and that the server runs."
        )
    if _caused_by(error, ssl.SSLCertVerificationError):
        return (
            f"Certificate not trusted: an unknown CA signed the certificate of {host_of(base_url)}. "
            "If a corporate proxy intercepts TLS, put the path of its CA bundle into Verify TLS."
        )
    if _caused_by(error, ssl.SSLError):
        return f"No TLS at {place}. Check scheme and port in {field}: http or https."
    if any(isinstance(cause, OSError) and cause.errno in _NO_ROUTE for cause in _chain(error)):
        return f"No network: this machine has no route to {place}. Check network, firewall and Proxy."
    if _caused_by(error, TimeoutError):
        return (
            f"No connection to {place} within {timeout:g} s. A firewall may drop the packets. Check network, "
            f"firewall and {field}. If this machine reaches the internet only through a proxy, set Proxy."
        )
    if hop is not base_url:
        return f"The proxy at {place} does not let the call through. Check {field}: address, user, password."
    return f"No connection to {place}. Check Base URL, network and Proxy."


def _not_answered(error: errors.RequestFailed, place: str, timeout: float) -> str:
    what = (
        f"did not answer within {timeout:g} s" if _caused_by(error, TimeoutError) else "closed the connection"
    )
    return (
        f"No answer: {place} accepted the call, and {what}. Try again. If this repeats, check Base URL and "
        "Proxy, and whether Magic Hour is available."
    )


def _answered(error: errors.RequestFailed, status: int, place: str) -> str:
    if status in range(300, 400):
        return f"{place} redirects the call. Base URL must be the URL of the API, such as {BASE_URL}."
    if status == 407:
        return "The proxy wants a user and a password. Put them into Proxy: http://user:password@host:port."
    if error.by_page:
        return (
            f"Web page: {place} returned a web page instead of an API response. It is from a proxy or "
            "gateway (log in there, or set Proxy), or from a website (correct Base URL; the API is at "
            f"{BASE_URL})."
        )
    if error.by_vendor and status == 401:
        return "Wrong key: Magic Hour does not accept it. Copy it into API key again."
    if error.by_vendor and status in (402, 403):
        return "Magic Hour knows the key, but refuses it. Check the account."
    if status == 429:
        return "Too many requests. Try again in a minute."
    if status >= 500:
        return (
            f"{place} answers, but reports an error. Try again. If this repeats, check whether Magic Hour is "
            "available."
        )
    return f"Wrong host: {place} is not Magic Hour's API. Check Base URL. The default is {BASE_URL}."


def _caused_by(error: BaseException, error_cls: type[BaseException]) -> bool:
    return any(isinstance(cause, error_cls) for cause in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
