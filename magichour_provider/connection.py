"""Checks each field of an Airflow connection of Magic Hour. No other module interprets the fields."""

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
MAX_NUMBER = 1e8  # in an extra field: an upper bound that is safe for sockets and dates


def settings_from_connection(connection: Connection) -> Settings:
    """
    The settings of a connection.

    :raises InvalidConnection: names the field, the value (but never the key) and the remedy.
    """
    try:
        _check_type(connection)
        return Settings(api_key=_key(connection), base_url=_base_url(connection), **_options(connection))
    except InvalidConnection as error:
        raise error.copied(f"connection {connection.conn_id!r}, {error}") from error.__cause__


def _check_type(connection: Connection) -> None:
    """Magic Hour must not get the secret of another service, whose connection was named by mistake."""
    conn_type = connection.conn_type
    is_generic = conn_type in ("http", "generic") and (connection.host or "").strip().rstrip("/")
    if conn_type not in (None, "", CONN_TYPE) and not is_generic:
        raise InvalidConnection.of("conn_type", conn_type, f"is not a connection of {CONN_TYPE}")


def _key(connection: Connection) -> str:
    key = (connection.password or "").strip()
    if not key:
        raise InvalidConnection.of(
            "password", connection.password, "contains no API key; put the key of Magic Hour's API there"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidConnection.of(
            "password", "***", "is not an API key: it contains a space or a special character"
        )
    return key


def _base_url(connection: Connection) -> str:
    host = (connection.host or "").strip().rstrip("/") or wire.BASE_URL
    schema = (connection.schema or "").strip().lower()
    if "://" not in host and schema in ("http", "https"):
        host = f"{schema}://{host}"
    address = _address(host)
    shown = _shown(host)
    if address is None or address.scheme not in ("http", "https"):
        raise InvalidConnection.of(
            "host", shown, f"is not an http(s) URL; write https://{shown.rpartition('://')[2]}"
        )
    if "@" in address.netloc or address.query or address.fragment:
        # The journal of every task would have it in plain text.
        raise InvalidConnection.of(
            "host",
            shown,
            "contains a user, a password or a query, which this API does not use; remove them, and put the "
            "API key into the password",
        )
    if connection.port and address.port is None:
        address = address._replace(netloc=f"{address.netloc}:{connection.port}")
    return address._replace(netloc=address.netloc.lower()).geturl()


def _options(connection: Connection) -> dict[str, Any]:
    """The fields of ``Settings`` that the extra has, checked."""
    try:
        extra = _extra(connection)
    except ValueError as error:
        problem = f'is not a JSON object; write it like {{"timeout": 60}} ({error})'
        raise InvalidConnection.of("extra", "…", problem) from error
    known = connection_type()["conn-fields"]
    for field in extra.keys() - known.keys():
        log.warning(
            "Connection %r: the extra field %r is not known and has no effect; the known fields are %s",
            connection.conn_id,
            field,
            ", ".join(known),
        )
    return {
        "timeout": _number(extra, "timeout", "seconds") or Settings.timeout,
        "proxy": _proxy(extra),
        "verify": _verify(extra),
        "poll_interval": _number(extra, "poll_interval", "seconds"),
        "requests_per_second": _number(extra, "requests_per_second", "requests a second"),
        "strict": _flag(extra, "strict"),
        "webhooks": bool(webhook_secrets(connection)),
    }


def _number(extra: dict[str, Any], field: str, unit: str) -> float | None:
    value = extra.get(field)
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = 0.0
    if not 0 < number < MAX_NUMBER:
        raise InvalidConnection.of(
            field, value, f"must be a number of {unit} above 0, and below {MAX_NUMBER:.0e}"
        )
    return number


def _flag(extra: dict[str, Any], field: str) -> bool:
    value = _as_flag(extra.get(field))
    if not isinstance(value, bool | None):
        raise InvalidConnection.of(field, value, "must be true or false")
    return bool(value)


def _verify(extra: dict[str, Any]) -> bool | str:
    value = _as_flag(extra.get("verify"))
    if not isinstance(value, bool | str | None):
        raise InvalidConnection.of("verify", value, "must be true, false, or the path of a CA bundle")
    return True if value is None else value


def _as_flag(value: object) -> object:
    """A flag that is written as text becomes a boolean, or None if the text is empty."""
    if not isinstance(value, str):
        return value
    return {"true": True, "false": False, "": None}.get(value.strip().lower(), value)


def _proxy(extra: dict[str, Any]) -> str | None:
    proxy = extra.get("proxy") or None
    address = _address(proxy)
    if proxy is not None and (
        address is None or address.scheme not in ("http", "https", "socks5", "socks5h")
    ):
        raise InvalidConnection.of(
            "proxy", "…", "is not the URL of a proxy; write it like http://proxy.example:3128"
        )
    return proxy


def webhook_secrets(connection: Connection) -> tuple[str, ...]:
    """
    The secrets with which the vendor signs the events of this connection.

    :returns: two secrets while one replaces the other; none if the connection has no webhooks.
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
    """A URL for a message, without the user, password, query or key that it may contain."""
    scheme, separator, rest = url.rpartition("://")
    place = re.split(r"[?#]", rest.rpartition("@")[2])[0]
    is_key = not scheme and re.fullmatch(r"[\w+/=-]{12,}", place)  # a key in the wrong field
    return "***" if is_key else f"{scheme}{separator}{place}"


def _address(url: object) -> SplitResult | None:
    """The parts of a URL that names a host, or None."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        return parts if parts and parts.hostname and parts.port != 0 else None  # reads the port too
    except ValueError:
        return None


async def read_settings(conn_id: str) -> Settings:
    """
    The settings of a connection, read without blocking the event loop.

    :raises InvalidConnection: the connection cannot be used; retryable if it was not found.
    """
    try:
        try:
            connection = await get_async_connection(conn_id)
        except AirflowNotFoundException:
            # In ``airflow dags test``, only a blocking call can read Airflow's database (3.3.2).
            connection = await asyncio.to_thread(BaseHook.get_connection, conn_id)
        return settings_from_connection(connection)
    except AirflowNotFoundException as error:
        # Airflow also raises "not found" when a secrets backend does not answer. A job is paid for, so a
        # retry is better than a failure.
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
