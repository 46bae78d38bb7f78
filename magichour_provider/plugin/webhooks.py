"""
The endpoint of the vendor's webhooks: ``POST …/magichour/webhooks/<connection id>``.

It is the only part of this package that is open to the world. An event is believed if it is signed with the
secret of the connection. A refusal costs no query, except for a connection id that is new to this process: a
token bucket limits those. ``effects`` applies an event to Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException
from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from magichour_provider import telemetry
from magichour_provider.api import events
from magichour_provider.api.events import Arrivals, Event
from magichour_provider.connection import CONN_TYPE, webhook_secrets
from magichour_provider.plugin import effects

log = logging.getLogger(__name__)

LARGEST_BODY = 256 * 1024
BODY_SECONDS = 5.0  # for the whole body
MOST_BODIES = 256  # bodies that are read at the same time
ANSWER_SECONDS = 1.0  # then the vendor is asked to send the event again
REFUSAL_SECONDS = 0.1  # a refusal takes at least so long, whatever its reason
KEEP_SECRETS = 60.0  # seconds
MOST_UNKNOWN = 1000  # connection ids without a secret that this process remembers
UNREAD = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
CONN_ID = re.compile(r"[\w.\-]{1,250}", re.ASCII)

router = APIRouter()


@router.post("/webhooks/{conn_id}")
async def receive(conn_id: str, request: Request) -> Response:
    """An event of the vendor. 2xx: it is accepted. Otherwise the vendor sends it again."""
    return await door.receive(conn_id, request)


class Refused(Exception):
    """
    :param reason: a word for the metric and for our log; the sender learns the status only.
    """

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass
class TokenBucket:
    """
    :param rate: tokens per second.
    :param burst: tokens that it holds.
    """

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._tokens, self._at = self.burst, self.clock()

    def take(self) -> bool:
        now = self.clock()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Secrets:
    """
    The secrets of the connections, each read once a minute.

    A flood of made-up connection ids uses up the tokens. A connection whose secret is known needs none.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[str, ...], float]] = {}
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._reading: dict[str, asyncio.Task[tuple[str, ...]]] = {}
        self._tokens = TokenBucket(rate=5, burst=20)

    async def of(self, conn_id: str) -> tuple[str, ...]:
        """
        :returns: empty if there is no such connection, or if it has no webhook secret.
        :raises Refused: too many connections are being read.
        """
        now = time.monotonic()
        secrets, until = self._known.get(conn_id, ((), 0.0))
        if now < until:
            return secrets
        if now < self._unknown.get(conn_id, 0.0) or not CONN_ID.fullmatch(conn_id):
            return ()
        reading = self._reading.get(conn_id)
        if reading is None:
            if not secrets and not self._tokens.take():
                raise Refused("too many connections", HTTPStatus.TOO_MANY_REQUESTS)
            reading = self._reading[conn_id] = asyncio.create_task(self._read(conn_id))
        return await asyncio.shield(reading)

    async def _read(self, conn_id: str) -> tuple[str, ...]:
        try:
            secrets = await effects.in_thread(_read_secrets, conn_id)
        finally:
            del self._reading[conn_id]
        until = time.monotonic() + KEEP_SECRETS
        if secrets:
            self._known[conn_id] = secrets, until
        else:
            self._known.pop(conn_id, None)
            self._unknown[conn_id] = until
            if len(self._unknown) > MOST_UNKNOWN:
                self._unknown.popitem(last=False)
        return secrets


def _read_secrets(conn_id: str) -> tuple[str, ...]:
    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        return ()
    return webhook_secrets(connection) if connection.conn_type == CONN_TYPE else ()


class Door:
    """Receives the events in one process: checks them, and applies those that are right."""

    def __init__(self) -> None:
        self.secrets = Secrets()
        self._tokens = TokenBucket(rate=200, burst=1000)
        self._bodies = 0
        self._taken: OrderedDict[str, float] = OrderedDict()  # signatures, until their events are too old

    async def receive(self, conn_id: str, request: Request) -> Response:
        began = time.monotonic()
        try:
            async with asyncio.timeout(BODY_SECONDS + ANSWER_SECONDS):
                await self._take(conn_id, request)
            return Response(status_code=HTTPStatus.NO_CONTENT)
        except Refused as error:
            refused = error
        except TimeoutError:
            refused = Refused("database too slow", HTTPStatus.SERVICE_UNAVAILABLE)
        except effects.Busy:
            refused = Refused("busy", HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception:
            log.exception("A webhook event could not be handled")
            refused = Refused("failed", HTTPStatus.SERVICE_UNAVAILABLE)
        events.refusals[refused.reason] += 1
        telemetry.count(f"magichour.webhooks.refused.{refused.reason.replace(' ', '_')}")
        await asyncio.sleep(began + REFUSAL_SECONDS - time.monotonic())
        # Without this, uvicorn would read the rest of an unread body, of any length.
        headers = {"Connection": "close"} if refused.status in UNREAD else {}
        return Response(status_code=refused.status, headers=headers)

    async def _take(self, conn_id: str, request: Request) -> None:
        timestamp = request.headers.get(events.TIMESTAMP_HEADER, "")
        signature = request.headers.get(events.SIGNATURE_HEADER, "")
        body = await self._body(request)
        secrets = await self.secrets.of(conn_id)
        # An unknown connection takes the same time as a wrong signature, and gets the same answer.
        matches = [
            events.is_signed(secret, timestamp=timestamp, signature=signature, body=body)
            for secret in secrets or ("",)
        ]
        if not secrets:
            raise Refused("unknown connection")
        arrivals = events.arrivals.setdefault(conn_id, Arrivals())
        arrivals.secrets = secrets
        if not any(matches) or not events.is_recent(timestamp):
            arrivals.refuse()
            raise Refused("wrong signature" if not any(matches) else "wrong time")
        if signature in self._taken:
            return
        try:
            event = Event.of(body)
        except ValueError:
            raise Refused("unreadable", HTTPStatus.BAD_REQUEST) from None
        if not self._tokens.take():
            raise Refused("too many events", HTTPStatus.TOO_MANY_REQUESTS)
        async with asyncio.timeout(ANSWER_SECONDS):
            effect = await effects.apply(conn_id, event)
        self._remember(signature)
        arrivals.take(event)
        telemetry.count(f"magichour.webhooks.{effect}")

    async def _body(self, request: Request) -> bytes:
        if self._bodies >= MOST_BODIES:
            raise Refused("too many requests", HTTPStatus.TOO_MANY_REQUESTS)
        self._bodies += 1
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > LARGEST_BODY:
                        raise Refused("too large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except TimeoutError:
            raise Refused("too slow", HTTPStatus.REQUEST_TIMEOUT) from None
        except ClientDisconnect:
            raise Refused("cut off", HTTPStatus.BAD_REQUEST) from None
        finally:
            self._bodies -= 1
        return bytes(body)

    def _remember(self, signature: str) -> None:
        now = time.monotonic()
        self._taken[signature] = now + 2 * events.TOLERANCE
        while next(iter(self._taken.values())) < now:
            self._taken.popitem(last=False)


door = Door()
