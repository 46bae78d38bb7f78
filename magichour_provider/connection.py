"""The Airflow connection of Magic Hour: read, and checked field by field. No other module reads it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from typing import Any
from urllib.parse import SplitResult, urlsplit

from airflow.providers.common.compat.connection import get_async_connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException, BaseHook, Connection

from magichour_provider import get_provider_info
from magichour_provider.api import wire
from magichour_provider.api.client import Settings
from magichour_provider.exceptions import InvalidConnection

log = logging.getLogger(__name__)

CONN_TYPE = "magichour"
LARGEST_NUMBER = 1e8  # in an extra: more seconds than sockets and dates can bear


def settings_from_connection(connection: Connection) -> Settings:
    """
    :raises InvalidConnection: names field, value (but never the key) and remedy.
    """
    conn_id = connection.conn_id

    def bad(field: str, value: object, remedy: str) -> InvalidConnection:
        return InvalidConnection(f"connection {conn_id!r}, {field}={value!r}: {remedy}")

    host = (connection.host or "").strip().rstrip("/")
    # Magic Hour must not get the secret of another service, whose connection was named by mistake.
    if connection.conn_type not in (None, "", CONN_TYPE) and not (
        host and connection.conn_type in ("http", "generic")
    ):
        raise bad("conn_type", connection.conn_type, f"is not a connection of {CONN_TYPE}")
    key = (connection.password or "").strip()
    if not key:
        raise bad("password", connection.password, "holds no API key; put the key of Magic Hour's API there")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise bad("password", "***", "holds what cannot be an API key (a space or a special character)")

    host = host or wire.BASE_URL
    schema = (connection.schema or "").strip().lower()
    if "://" not in host and schema in ("http", "https"):
        host = f"{schema}://{host}"
    address = _address(host)
    if address is None or address.scheme not in ("http", "https"):
        shown = _shown(host)
        raise bad("host", shown, f"is not an http(s) URL; write https://{shown.rpartition('://')[2]}")
    if "@" in address.netloc or address.query or address.fragment:
        # The record of every task would have it in plain text.
        raise bad(
            "host",
            _shown(host),
            "holds a user, a password or a query, which this API does not use; leave them out, and put the "
            "API key into the password",
        )
    if connection.port and address.port is None:
        address = address._replace(netloc=f"{address.netloc}:{connection.port}")
    host = address._replace(netloc=address.netloc.lower()).geturl()

    try:
        extra = _extra(connection)
    except ValueError as error:
        raise bad("extra", "…", f'is not a JSON object; write it like {{"timeout": 60}} ({error})') from error

    def number(field: str, unit: str) -> float | None:
        value = extra.get(field)
        if value in (None, ""):
            return None
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            found = 0.0
        if not 0 < found < LARGEST_NUMBER:
            raise bad(field, value, f"must be a number of {unit} above 0, and below {LARGEST_NUMBER:.0e}")
        return found

    def flag(field: str) -> bool:
        value = extra.get(field)
        if isinstance(value, str):
            value = {"true": True, "false": False, "": False}.get(value.strip().lower(), value)
        if value is not None and not isinstance(value, bool):
            raise bad(field, value, "must be true or false")
        return bool(value)

    for field in extra.keys() - connection_type()["conn-fields"].keys():
        log.warning(
            "Connection %r: the extra field %r is not known and has no effect; there are %s",
            *(conn_id, field, ", ".join(connection_type()["conn-fields"])),
        )
    verify = extra.get("verify")
    if isinstance(verify, str):
        verify = {"true": True, "false": False, "": None}.get(verify.strip().lower(), verify)
    if not isinstance(verify, bool | str | None):
        raise bad("verify", verify, "must be true, false, or the path of a CA bundle")
    proxy = extra.get("proxy") or None
    known = _address(proxy)
    if proxy is not None and (known is None or known.scheme not in ("http", "https", "socks5", "socks5h")):
        raise bad("proxy", "…", "is not the URL of a proxy; write it like http://proxy.example:3128")
    return Settings(
        api_key=key,
        base_url=host,
        timeout=number("timeout", "seconds") or Settings.timeout,
        proxy=proxy,
        verify=True if verify is None else verify,
        poll_interval=number("poll_interval", "seconds"),
        requests_per_second=number("requests_per_second", "requests a second"),
        strict=flag("strict"),
        webhooks=bool(webhook_secrets(connection)),
    )


def webhook_secrets(connection: Connection) -> tuple[str, ...]:
    """
    The secrets with which the vendor signs the events of this connection.

    :returns: several while one is being replaced; none if the connection has no webhooks.
    """
    try:
        written = _extra(connection).get("webhook_secret")
    except ValueError:
        return ()
    return tuple(secret for part in str(written or "").split(",") if (secret := part.strip()))


def _extra(connection: Connection) -> dict[str, Any]:
    # Not connection.extra_dejson: it masks with a blocking call, which an event loop must not make.
    extra = json.loads(connection.extra or "{}")
    if not isinstance(extra, dict):
        raise ValueError(f"a {type(extra).__name__}")  # noqa: TRY004
    return extra


def _shown(url: str) -> str:
    """A URL for a message, without the user, password, query or key that it may hold."""
    scheme, separator, rest = url.rpartition("://")
    place = re.split(r"[?#]", rest.rpartition("@")[2])[0]
    is_key = not scheme and re.fullmatch(r"[\w+/=-]{12,}", place)  # in the wrong field
    return "***" if is_key else f"{scheme}{separator}{place}"


def _address(url: object) -> SplitResult | None:
    """The parts of a URL that names a host, or None."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        return parts if parts and parts.hostname and parts.port != 0 else None  # reads the port too
    except ValueError:
        return None


async def read_settings(conn_id: str) -> Settings:
    try:
        try:
            connection = await get_async_connection(conn_id)
        except AirflowNotFoundException:
            # Within ``airflow dags test``, Airflow's database cannot be asked without blocking (3.3.2).
            connection = await asyncio.to_thread(BaseHook.get_connection, conn_id)
        return settings_from_connection(connection)
    except AirflowNotFoundException as error:
        # Airflow also says "not found" when a secrets backend does not answer. A job waits, so a retry is
        # better than a failure.
        missing = no_such_connection(conn_id)
        missing.retryable = True
        raise missing from error


def no_such_connection(conn_id: str) -> InvalidConnection:
    return InvalidConnection(
        f"magichour_conn_id={conn_id!r}: there is no such connection, or it could not be read; "
        "create it, for example with "
        f"airflow connections add {conn_id} --conn-type magichour --conn-password <your API key>"
    )


def connection_type() -> dict[str, Any]:
    found: dict[str, Any] = get_provider_info()["connection-types"][0]
    return found
