"""
Webhooks: the vendor's events, signed the vendor's way, repeated until they are taken.

The vendor registers them by hand in its web app; here the command line or the admin route does.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from .state import Clock, Job

ANSWER_SECONDS = 10
# Exponential, and given up after a day: the vendor's words. The first delay is this emulator's.
FIRST_DELAY = 5.0
GIVE_UP_SECONDS = 24 * 3600
DELIVERIES_KEPT = 2000
# "canceled" is missing on purpose: it sends no event.
EVENTS = {"rendering": "started", "complete": "completed", "error": "errored"}
# Those of images can be asked for as in the vendor's form; nothing here makes any.
KNOWN = {f"{kind}.{event}" for kind in ("video", "audio", "image") for event in EVENTS.values()}


@dataclass
class Webhook:
    """Where to send, signed with which secret, and which events; none means all."""

    url: str
    secret: str
    events: list[str] = field(default_factory=list)


@dataclass
class Delivery:
    """One event on its way to one receiver."""

    url: str
    type: str
    job_id: str
    attempts: list[int | str] = field(default_factory=list)
    delivered: bool = False
    given_up: bool = False


class Webhooks:
    """The receivers, and all that is on its way to them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.receivers: list[Webhook] = []
        self.deliveries: deque[Delivery] = deque(maxlen=DELIVERIES_KEPT)
        self._sending: set[asyncio.Task[None]] = set()
        self._last: dict[tuple[str, str], asyncio.Event] = {}
        self._session: aiohttp.ClientSession | None = None

    def add(self, url: str, secret: str, events: list[str] | None = None) -> Webhook:
        """Register a receiver."""
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError(f"url is {url!r}: choose one that starts with http:// or https://")
        if not isinstance(secret, str):
            raise TypeError(f"secret is {secret!r}: choose text")
        if unknown := set(events or []) - KNOWN:
            raise ValueError(f"events has {', '.join(sorted(unknown))}: choose {', '.join(sorted(KNOWN))}")
        receiver = Webhook(url, secret, events or [])
        self.receivers.append(receiver)
        return receiver

    def announce(self, job: Job, payload: dict[str, Any]) -> None:
        """Tell the receivers of a job's new status."""
        if job.status not in EVENTS:
            return
        event = f"{job.kind}.{EVENTS[job.status]}"
        body = json.dumps({"type": event, "payload": payload}).encode()
        for receiver in self.receivers:
            if receiver.events and event not in receiver.events:
                continue
            delivery = Delivery(receiver.url, event, job.id)
            self.deliveries.append(delivery)
            # An event's first attempt comes after that of the one before it.
            key = (receiver.url, job.id)
            before, tried = self._last.get(key), asyncio.Event()
            self._last[key] = tried
            task = asyncio.create_task(self._deliver(receiver, delivery, body, before, tried))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        for task in list(self._sending):
            task.cancel()
        if self._session:
            await self._session.close()

    async def _deliver(
        self,
        receiver: Webhook,
        delivery: Delivery,
        body: bytes,
        before: asyncio.Event | None,
        tried: asyncio.Event,
    ) -> None:
        if before:
            await before.wait()
        give_up = self.clock.now() + GIVE_UP_SECONDS
        delay = FIRST_DELAY
        while True:
            outcome = await self._attempt(receiver, body)
            delivery.attempts.append(outcome)
            tried.set()
            if isinstance(outcome, int) and 200 <= outcome < 300:
                delivery.delivered = True
                break
            if self.clock.now() + delay > give_up:
                delivery.given_up = True
                break
            await self.clock.sleep(delay)
            delay *= 2
        if self._last.get((receiver.url, delivery.job_id)) is tried:
            del self._last[(receiver.url, delivery.job_id)]

    async def _attempt(self, receiver: Webhook, body: bytes) -> int | str:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self._session.post(
                receiver.url,
                data=body,
                headers=signed(receiver.secret, body),
                allow_redirects=False,
            ) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return type(error).__name__


def signed(secret: str, body: bytes) -> dict[str, str]:
    """The vendor's headers. By the real time: a receiver compares it with its own clock."""
    moment = str(int(time.time()))
    message = f"{moment}.".encode() + body
    return {
        "Content-Type": "application/json",
        "magic-hour-event-timestamp": moment,
        "magic-hour-event-signature": hmac.new(secret.encode(), message, hashlib.sha256).hexdigest(),
    }
