"""
The endpoint of the vendor's webhooks: ``POST …/magichour/webhooks/<connection id>``.

Only this part of the package is open to the world. It accepts an event if it is signed with a secret of the
connection. A refusal costs no query, unless the connection id is new to this process; a token bucket limits
these queries. ``effects`` applies an accepted event to Airflow.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter, OrderedDict
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

MAX_BODY_BYTES = 256 * 1024
BODY_SECONDS = 5.0  # for the whole body
MAX_BODIES = 256  # bodies that are read at the same time
ANSWER_SECONDS = 1.0  # for the change in Airflow; after that, the vendor must send the event again
REFUSAL_SECONDS = 0.1  # the least time of a refusal, so that its time does not show its reason
KEEP_SECRETS = 60.0  # seconds
MAX_UNKNOWN = 1000  # connection ids without a secret that this process remembers
# Refusals that may come before the whole body was read.
UNREAD = (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
CONN_ID = re.compile(r"[\w.\-]{1,250}", re.ASCII)

router = APIRouter()


@router.post("/webhooks/{conn_id}")
async def receive(conn_id: str, request: Request) -> Response:
    """Receive an event. After any status but 2xx, the vendor sends it again."""
    return await receiver.receive(conn_id, request)


class Refused(Exception):
    """
    The endpoint does not accept a request.

    :param reason: for the metric and the page; the sender sees only the status.
    """

    def __init__(self, reason: str, status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


@dataclass
class TokenBucket:
    """
    Limits how often something happens.

    :param rate: the tokens that it gets per second.
    :param burst: the most tokens that it holds.
    """

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._tokens, self._at = self.burst, self.clock()

    def take(self) -> bool:
        """Take a token, if there is one."""
        now = self.clock()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Secrets:
    """
    The webhook secrets of the connections. Each connection is read once a minute.

    A flood of made-up connection ids uses up the tokens. A connection whose secret is known needs no token.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[str, ...], float]] = {}
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._reading: dict[str, asyncio.Task[tuple[str, ...]]] = {}
        self._tokens = TokenBucket(rate=5, burst=20)

    async def of(self, conn_id: str) -> tuple[str, ...]:
        """
        :returns: the secrets; none if the connection does not exist or has no webhook secret.
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
            if len(self._unknown) > MAX_UNKNOWN:
                self._unknown.popitem(last=False)
        return secrets


def _read_secrets(conn_id: str) -> tuple[str, ...]:
    try:
        connection = Connection.get_connection_from_secrets(conn_id)
    except AirflowNotFoundException:
        return ()
    return webhook_secrets(connection) if connection.conn_type == CONN_TYPE else ()


class WebhookReceiver:
    """
    Receives the events that reach this process: checks each event, and applies it.

    :ivar refusals: the number of refusals for each reason.
    """

    def __init__(self) -> None:
        self.secrets = Secrets()
        self.refusals: Counter[str] = Counter()
        self._tokens = TokenBucket(rate=200, burst=1000)
        self._bodies = 0
        self._accepted: OrderedDict[str, float] = OrderedDict()  # signatures, until their events are too old

    async def receive(self, conn_id: str, request: Request) -> Response:
        began = time.monotonic()
        try:
            async with asyncio.timeout(BODY_SECONDS + ANSWER_SECONDS):
                await self._accept(conn_id, request)
            return Response(status_code=HTTPStatus.NO_CONTENT)
        except Refused as error:
            refused = error
        except TimeoutError:
            refused = Refused("database too slow", HTTPStatus.SERVICE_UNAVAILABLE)
        except effects.Busy:
            refused = Refused("busy", HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception:
            log.exception("Handling a webhook event failed")
            refused = Refused("failed", HTTPStatus.SERVICE_UNAVAILABLE)
        self.refusals[refused.reason] += 1
        telemetry.count(f"webhooks.refused.{refused.reason.replace(' ', '_')}")
        await asyncio.sleep(began + REFUSAL_SECONDS - time.monotonic())
        # Without this header, uvicorn would read the rest of the body, however long it is.
        headers = {"Connection": "close"} if refused.status in UNREAD else {}
        return Response(status_code=refused.status, headers=headers)

    async def _accept(self, conn_id: str, request: Request) -> None:
        """
        Check and apply the event of a request.

        :raises Refused: the event is not valid, or there are too many.
        """
        timestamp = request.headers.get(events.TIMESTAMP_HEADER, "")
        signature = request.headers.get(events.SIGNATURE_HEADER, "")
        body = await self._body(request)
        secrets = await self.secrets.of(conn_id)
        # Also for an unknown connection, so that its refusal takes as long as one for a wrong signature.
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
        if signature in self._accepted:
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
        telemetry.count(f"webhooks.{effect}")

    async def _body(self, request: Request) -> bytes:
        if self._bodies >= MAX_BODIES:
            raise Refused("too many requests", HTTPStatus.TOO_MANY_REQUESTS)
        self._bodies += 1
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
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
        self._accepted[signature] = now + 2 * events.TOLERANCE
        while next(iter(self._accepted.values())) < now:
            self._accepted.popitem(last=False)


receiver = WebhookReceiver()
