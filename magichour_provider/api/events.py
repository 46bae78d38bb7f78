"""
The vendor's webhook events: how they are signed, what they say, and which have arrived in this process.

The vendor repeats an event until it is accepted. An event may come late, and there is none for a job that was
canceled. So a missing event proves nothing. A job's name ends in the short id of the paid call that made it.

Source: the vendor's pages on webhooks, read 2026-11.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from magichour_provider.api.models import UNREADABLE, id_text

SIGNATURE_HEADER, TIMESTAMP_HEADER = "magic-hour-event-signature", "magic-hour-event-timestamp"
TOLERANCE = 300.0  # seconds between the time in an event and ours
_MARK = re.compile(r"\[mh-([0-9a-f]{8})\]\s*$")
_STATUSES = {"started": "rendering", "completed": "complete", "errored": "error"}


@dataclass(frozen=True)
class Event:
    """
    :ivar type: such as ``video.completed``.
    :ivar short_id: from the end of the job's name, or None.
    :ivar status: the job's status, or None if the type is not known.
    """

    type: str
    job_id: str
    short_id: str | None
    status: str | None

    @property
    def is_end(self) -> bool:
        return self.status in ("complete", "error")

    @classmethod
    def of(cls, body: bytes) -> Event:
        """
        :raises ValueError: it is not an event.
        """
        try:
            sent = json.loads(body)
            kind, job_id = sent["type"], id_text(sent["payload"]["id"])
            name = sent["payload"].get("name") or ""
        except (*UNREADABLE, KeyError, AttributeError):
            raise ValueError("not an event") from None
        if not (isinstance(kind, str) and isinstance(job_id, str) and isinstance(name, str)):
            raise ValueError("not an event")  # noqa: TRY004
        if not 0 < len(job_id) <= 200 or len(kind) > 50:
            raise ValueError("not an event")
        return cls(kind, job_id, short_id_of(name), _STATUSES.get(kind.partition(".")[2]))


def short_id_of(name: str) -> str | None:
    """That of the paid call that made a job of this name; None if the name carries none."""
    found = _MARK.search(name)
    return found[1] if found else None


def is_signed(secret: str, *, timestamp: str, signature: str, body: bytes) -> bool:
    """Is the signature right? Compared in constant time. The headers may hold anything."""
    message = timestamp.encode(errors="replace") + b"." + body
    expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))


def is_recent(timestamp: str) -> bool:
    """Is the time in the event within ``TOLERANCE`` of ours?"""
    is_number = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12
    return is_number and abs(time.time() - int(timestamp)) <= TOLERANCE


@dataclass
class Arrivals:
    """
    The events of one connection that have arrived in this process.

    :ivar secrets: the connection's. *Test* finds the connection by them, since it has another id there.
    :ivar last_type: the type of the last event that was accepted.
    :ivar last_refused_at: when the last event with a wrong signature or time came.
    """

    secrets: tuple[str, ...] = field(default=(), repr=False)
    taken: int = 0
    last_type: str | None = None
    last_at: datetime | None = None
    refused: int = 0
    last_refused_at: datetime | None = None

    def take(self, event: Event) -> None:
        self.taken += 1
        self.last_type, self.last_at = event.type, datetime.now(UTC)

    def refuse(self) -> None:
        self.refused += 1
        self.last_refused_at = datetime.now(UTC)

    def __str__(self) -> str:
        """As a sentence for a person."""
        now = datetime.now(UTC)
        if self.last_at is not None:
            said = f"The last webhook event ({self.last_type}) arrived {_seconds(self.last_at, now)} ago"
        else:
            said = "No webhook event has arrived"
        if self.last_refused_at is not None:
            said += (
                f"; {self.refused} were refused for a wrong signature or time, the last one "
                f"{_seconds(self.last_refused_at, now)} ago"
            )
        return f"{said} (counted by this process of the API server, since its start)."


def _seconds(then: datetime, now: datetime) -> str:
    return f"{(now - then).total_seconds():.0f} s"


# For this process: the endpoint writes them, and a page and the connection's *Test* show them.
arrivals: dict[str, Arrivals] = {}
refusals: Counter[str] = Counter()
