"""
The vendor's webhook events: their signature, their content, and which have arrived in this process.

The vendor repeats an event until it is accepted. An event may arrive late, and a canceled job has none. So a
missing event proves nothing. The name of a job ends in the short id of the paid call that made the job.

Source: the vendor's pages on webhooks, read 2026-11.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from magichour_provider.api.models import UNREADABLE, id_text

SIGNATURE_HEADER, TIMESTAMP_HEADER = "magic-hour-event-signature", "magic-hour-event-timestamp"
TOLERANCE = 300.0  # seconds: the maximum difference between the time in an event and our time
_MARK = re.compile(r"\[mh-([0-9a-f]{8})\]\s*$")
_STATUSES = {"started": "rendering", "completed": "complete", "errored": "error"}


@dataclass(frozen=True)
class Event:
    """
    One event.

    :ivar type: such as ``video.completed``.
    :ivar short_id: the short id at the end of the job's name, or None.
    :ivar status: the status of the job, or None if the type is not known.
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
        Read an event.

        :raises ValueError: the body is not an event.
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


def mark(short_id: str) -> str:
    """The end of a job's name, by which a person or a webhook event finds the task that paid for the job."""
    return f"[mh-{short_id}]"


def short_id_of(name: str) -> str | None:
    """The short id in the mark of a job's name, or None if the name has no mark."""
    found = _MARK.search(name)
    return found[1] if found else None


def is_signed(secret: str, *, timestamp: str, signature: str, body: bytes) -> bool:
    """Is the signature right? The comparison takes constant time. The headers may contain any text."""
    message = timestamp.encode(errors="replace") + b"." + body
    expected = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))


def is_recent(timestamp: str) -> bool:
    """Does the time in the event differ from our time by ``TOLERANCE`` at most?"""
    is_number = timestamp.isascii() and timestamp.isdecimal() and len(timestamp) <= 12
    return is_number and abs(time.time() - int(timestamp)) <= TOLERANCE


@dataclass
class Arrivals:
    """
    The events of one connection that have arrived in this process.

    :ivar secrets: the secrets of the connection. *Test* finds the connection by them, because *Test* gives
        the connection another id.
    :ivar last_type: the type of the last accepted event.
    :ivar last_refused_at: the time of the last event with a wrong signature or time.
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
        """A sentence for a person."""
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


# The events of this process, by connection id. The endpoint writes them; a page and *Test* show them.
arrivals: dict[str, Arrivals] = {}
