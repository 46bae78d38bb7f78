"""
Webhooks: the vendor's events, with the vendor's signature. They are sent again until they are delivered.

At the vendor, a person registers a receiver in the web app. Here, the command line or an admin route does.
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
    from .models import Clock, Job

TIMEOUT_SECONDS = 10
# The vendor documents exponential backoff for 24 hours, but not the first delay.
FIRST_DELAY_SECONDS = 5.0
GIVE_UP_SECONDS = 24 * 3600
MAX_DELIVERIES = 2000
# There is no event for "canceled".
EVENTS = {"rendering": "started", "complete": "completed", "error": "errored"}
EVENT_TYPES = {f"{media}.{event}" for media in ("video", "audio", "image") for event in EVENTS.values()}


@dataclass
class Webhook:
    """
    A receiver of events.

    :param secret: signs the events.
    :param events: the event types to send; empty: all.
    """

    url: str
    secret: str
    events: list[str] = field(default_factory=list)


@dataclass
class Delivery:
    """
    One event for one receiver.

    :param attempts: the result of each attempt: the status of the response, or the name of an error.
    """

    url: str
    type: str
    job_id: str
    attempts: list[int | str] = field(default_factory=list)
    delivered: bool = False
    given_up: bool = False


class Webhooks:
    """The receivers, and the deliveries to them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.receivers: list[Webhook] = []
        self.deliveries: deque[Delivery] = deque(maxlen=MAX_DELIVERIES)
        self._sending: set[asyncio.Task[None]] = set()
        # For each receiver and job: set when the first attempt of its latest delivery has ended.
        self._latest: dict[tuple[str, str], asyncio.Event] = {}
        self._session: aiohttp.ClientSession | None = None

    def add(self, url: str, secret: str, events: list[str] | None = None) -> Webhook:
        """Register a receiver."""
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise ValueError(f"url is {url!r}: choose a URL that starts with http:// or https://")
        if not isinstance(secret, str):
            raise TypeError(f"secret is {secret!r}: give a string")
        if unknown := set(events or []) - EVENT_TYPES:
            choices = ", ".join(sorted(EVENT_TYPES))
            raise ValueError(f"events contains {', '.join(sorted(unknown))}: choose {choices}")
        receiver = Webhook(url, secret, events or [])
        self.receivers.append(receiver)
        return receiver

    def send(self, job: Job, payload: dict[str, Any]) -> None:
        """Send the event of a job's new status to the receivers."""
        if job.status not in EVENTS:
            return
        event = f"{job.job_type}.{EVENTS[job.status]}"
        body = json.dumps({"type": event, "payload": payload}).encode()
        for receiver in self.receivers:
            if receiver.events and event not in receiver.events:
                continue
            delivery = Delivery(receiver.url, event, job.id)
            self.deliveries.append(delivery)
            # To keep the order, the first attempt waits for the first attempt of the job's previous event.
            key = (receiver.url, job.id)
            previous, attempted = self._latest.get(key), asyncio.Event()
            self._latest[key] = attempted
            task = asyncio.create_task(self._deliver(receiver, delivery, body, previous, attempted))
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
        previous: asyncio.Event | None,
        attempted: asyncio.Event,
    ) -> None:
        if previous:
            await previous.wait()
        give_up = self.clock.now() + GIVE_UP_SECONDS
        delay = FIRST_DELAY_SECONDS
        while True:
            result = await self._attempt(receiver, body)
            delivery.attempts.append(result)
            attempted.set()
            if isinstance(result, int) and 200 <= result < 300:
                delivery.delivered = True
                break
            if self.clock.now() + delay > give_up:
                delivery.given_up = True
                break
            await self.clock.sleep(delay)
            delay *= 2
        if self._latest.get((receiver.url, delivery.job_id)) is attempted:
            del self._latest[(receiver.url, delivery.job_id)]

    async def _attempt(self, receiver: Webhook, body: bytes) -> int | str:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        try:
            async with self._session.post(
                receiver.url,
                data=body,
                headers=signed(receiver.secret, body),
                allow_redirects=False,
            ) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return type(error).__name__


def signed(secret: str, body: bytes) -> dict[str, str]:
    """Return the vendor's headers. They have the real time, because receivers compare it with their clock."""
    timestamp = str(int(time.time()))
    message = f"{timestamp}.".encode() + body
    return {
        "Content-Type": "application/json",
        "magic-hour-event-timestamp": timestamp,
        "magic-hour-event-signature": hmac.new(secret.encode(), message, hashlib.sha256).hexdigest(),
    }
