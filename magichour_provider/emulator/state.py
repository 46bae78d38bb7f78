"""
What the emulated account owns: its clock, its credits and their ledger, its jobs and how they walk.

Nothing here knows HTTP. All of it runs on the server's one event loop, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Kind = Literal["video", "audio"]
Status = Literal["queued", "rendering", "complete", "error", "canceled"]
ACTIVE: tuple[Status, ...] = ("queued", "rendering")

LEDGER_KEPT = 20_000
# The vendor's own figure for a talking photo, queueing included.
MEDIAN_SECONDS = 174.0
SPREAD = 0.45
QUEUED_SHARE = 0.2
# A hundred years: what lies far beyond has no date.
LONGEST_LEAP = 100 * 365 * 24 * 3600


class Clock:
    """The emulator's time: the machine's, plus what a tester has set it forward by."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._moved = asyncio.Event()

    def now(self) -> float:
        return time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        if not 0 <= seconds <= LONGEST_LEAP:
            raise ValueError(f"seconds is {seconds:g}: choose 0 to {LONGEST_LEAP}")
        self.ahead += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Wait until the emulator's time has passed; setting it forward counts."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            try:
                await asyncio.wait_for(self._moved.wait(), left)
            except TimeoutError:
                continue


@dataclass(frozen=True)
class Moves:
    """How jobs walk: ``instant``, ``looks:N``, ``seconds:N``, ``manual``, ``realistic``, ``realistic:N``."""

    kind: str
    amount: float = 0

    @classmethod
    def parse(cls, text: str) -> Moves:
        if text in ("instant", "manual"):
            return cls(text)
        if text == "realistic":
            return cls(text, MEDIAN_SECONDS)
        if found := re.fullmatch(r"(looks):(\d+)|(seconds|realistic):(\d+(?:\.\d+)?)", text):
            if found[1]:
                return cls("looks", max(1, int(found[2])))
            return cls(found[3], float(found[4]))
        raise ValueError(
            f"moves is {text!r}: choose instant, looks:N, seconds:N, manual, realistic or realistic:N"
        )

    def __str__(self) -> str:
        is_plain = self.kind in ("instant", "manual") or self == Moves("realistic", MEDIAN_SECONDS)
        return self.kind if is_plain else f"{self.kind}:{self.amount:g}"

    def due(self, job: Job, now: float) -> Status:
        """Where a job stands by now, before asking whether its file is ready."""
        if self.kind == "instant":
            return "complete"
        if self.kind == "looks":
            if job.looks >= self.amount:
                return "complete"
            return "queued" if job.looks <= (self.amount - 1) // 2 else "rendering"
        if self.kind in ("seconds", "realistic"):
            whole = self.amount * (job.share_of_median if self.kind == "realistic" else 1)
            passed = now - job.created_at
            if passed >= whole:
                return "complete"
            return "rendering" if passed >= whole * QUEUED_SHARE else "queued"
        return job.status


@dataclass(frozen=True)
class Output:
    """A finished file, and what it measures."""

    path: Path
    width: int = -1
    height: int = -1
    fps: float = 30.0
    engine: str | None = None


class RenderError(Exception):
    """A render that ended with one of the vendor's codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class Job:
    """A Magic Hour project. ``request`` is the JSON that was accepted."""

    id: str
    kind: Kind
    name: str
    request: dict[str, Any]
    price: Decimal
    created_at: float
    credits_charged: int
    share_of_median: float
    render: asyncio.Task[Output] | None = None
    status: Status = "queued"
    looks: int = 0
    enabled: bool = True
    error: dict[str, str] | None = None
    output: Output | None = None
    # How a fault wants it to end instead of complete: "error:<code>", "canceled" or "deleted".
    ends: str | None = None

    @property
    def active(self) -> bool:
        return self.status in ACTIVE


@dataclass
class Account:
    """Credits, and a ledger of every movement of them."""

    clock: Clock
    credits: int
    tier: str
    ledger: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LEDGER_KEPT))

    def book(self, kind: Literal["charge", "refund", "correction"], job: Job, amount: int) -> None:
        """Move credits and write it down: spending is positive, giving back negative."""
        self.credits -= amount
        self.ledger.append(
            {
                "kind": kind,
                "job_id": job.id,
                "job_kind": job.kind,
                "name": job.name,
                "credits": amount,
                "at": timestamp(self.clock.now()),
            }
        )


class Jobs:
    """The jobs, oldest first, and the only place where one changes its status."""

    def __init__(self, account: Account, moves: Moves, limit: int, seed: int | None) -> None:
        self.account = account
        self.clock = account.clock
        self.moves = moves
        self.limit = limit
        self.all: dict[str, Job] = {}
        # Told of every change of status: webhooks listen here.
        self.on_change: Callable[[Job], None] = lambda job: None
        # Told of a job that is dropped, so that its file goes too.
        self.on_drop: Callable[[Job], None] = lambda job: None
        self._random = random.Random(seed)  # noqa: S311 - render times, not secrets

    def create(self, kind: Kind, name: str, request: dict[str, Any], price: Decimal) -> Job:
        """Accept a job and charge its estimate."""
        job = Job(
            id="cm" + secrets.token_hex(12)[:23],
            kind=kind,
            name=name,
            request=request,
            price=price,
            created_at=self.clock.now(),
            credits_charged=whole_credits(price),
            share_of_median=self._random.lognormvariate(0, SPREAD),
        )
        self.all[job.id] = job
        self.account.book("charge", job, job.credits_charged)
        self._drop_oldest()
        return job

    def walk(self, job: Job) -> None:
        """Bring a job to where it should be by now, and never further than its file allows."""
        if not job.active:
            return
        due = self.moves.due(job, self.clock.now())
        if due == "queued":
            return
        self.start(job)
        if due == "complete":
            self.finish(job)

    def start(self, job: Job) -> None:
        if job.status == "queued":
            job.status = "rendering"
            self.on_change(job)

    def finish(self, job: Job) -> None:
        """End a rendering job, if its render has ended."""
        if job.ends == "canceled":
            self.cancel(job)
            return
        if job.ends and job.ends.startswith("error:"):
            self.fail(job, job.ends.removeprefix("error:"), "")
            return
        if job.render is None or not job.render.done():
            return
        failure = job.render.exception()
        if failure is not None:
            code = failure.code if isinstance(failure, RenderError) else "unknown_error"
            self.fail(job, code, str(failure))
            return
        job.output = job.render.result()
        job.status = "complete"
        final = whole_credits(job.price * Decimal(str(job.output.fps)) / 30)
        if job.kind == "video" and final != job.credits_charged:
            self.account.book("correction", job, final - job.credits_charged)
            job.credits_charged = final
        if job.ends == "deleted" or not job.enabled:
            self.delete(job)
        self.on_change(job)

    def fail(self, job: Job, code: str, message: str) -> None:
        """End a job in ``error`` and refund it."""
        job.status = "error"
        job.error = {"code": code, "message": message or default_message(code)}
        self._refund(job)
        self.on_change(job)

    def cancel(self, job: Job) -> None:
        """What only the vendor's web app can do: end a job with a full refund, and no event."""
        job.status = "canceled"
        self._refund(job)
        self.on_change(job)

    def delete(self, job: Job) -> None:
        """Delete the rendered file; the money stays spent, and a render goes on."""
        job.enabled = False
        self.on_drop(job)

    def drop(self, job: Job) -> None:
        """Forget a job altogether, to bound what is kept."""
        del self.all[job.id]
        self.on_drop(job)

    def _refund(self, job: Job) -> None:
        if job.credits_charged:
            self.account.book("refund", job, -job.credits_charged)
            job.credits_charged = 0

    def _drop_oldest(self) -> None:
        surplus = len(self.all) - self.limit
        if surplus <= 0:
            return
        for job in [job for job in self.all.values() if not job.active][:surplus]:
            self.drop(job)


def whole_credits(price: Decimal) -> int:
    """Credits are whole: the vendor rounds up."""
    return int(price.to_integral_value(ROUND_CEILING))


def timestamp(seconds: float) -> str:
    """As the vendor writes time: ISO 8601, UTC, milliseconds."""
    fraction, whole = math.modf(seconds)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int(fraction * 1000):03d}Z"


def default_message(code: str) -> str:
    return {
        "no_source_face": "Please use an image with a detectable face",
        "invalid_file_format": "The file could not be read",
        "file_too_large": "The file is too large",
        "insufficient_credits": "There are not enough credits to finish the render",
        "invalid_parameters": "The parameters do not fit the file",
        "invalid_video_file": "The video file could not be read",
        "processing_timeout": "The render took too long",
        "content_policy_violation": "The content violates the content policy",
    }.get(code, "An unknown error occurred")
