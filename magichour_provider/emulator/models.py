"""
The state of the emulated account: its clock, credits, ledger and jobs.

This module does not use HTTP. All of it runs on the server's event loop, so it needs no locks.
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
from urllib.parse import quote

from .exceptions import RenderError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .faults import FaultRule

JobType = Literal["video", "audio", "image"]
Status = Literal["queued", "rendering", "complete", "error", "canceled"]
SUFFIXES: dict[JobType, str] = {"video": ".mp4", "audio": ".wav", "image": ".png"}
ACTIVE: tuple[Status, ...] = ("queued", "rendering")

MAX_LEDGER_ENTRIES = 20_000
# Source: the vendor's median for a talking photo, including the queue, in the 30 days before 2026-07-20.
MEDIAN_SECONDS = 174.0
# The standard deviation of the logarithm of a realistic render time.
LOG_STANDARD_DEVIATION = 0.45
# A job is queued for this share of its time, then it renders.
QUEUED_SHARE = 0.2
# 100 years. Much later dates cannot be formatted.
MAX_ADVANCE_SECONDS = 100 * 365 * 24 * 3600


class Clock:
    """The emulator's time: the system time, plus the seconds by which a tester has set it forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._advanced = asyncio.Event()

    def now(self) -> float:
        return time.time() + self.ahead

    def advance(self, seconds: float) -> None:
        if not 0 <= seconds <= MAX_ADVANCE_SECONDS:
            raise ValueError(f"seconds is {seconds:g}: choose 0 to {MAX_ADVANCE_SECONDS}")
        self.ahead += seconds
        self._advanced.set()
        self._advanced = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """Sleep by the emulator's time: setting the clock forward shortens the sleep."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            try:
                await asyncio.wait_for(self._advanced.wait(), left)
            except TimeoutError:
                continue


@dataclass(frozen=True)
class Progression:
    """
    When jobs change their status.

    :param mode: ``instant``, ``polls``, ``seconds``, ``manual`` or ``realistic``.
    :param amount: the number of polls, the seconds, or the median in seconds.
    """

    mode: str
    amount: float = 0

    @classmethod
    def parse(cls, text: str) -> Progression:
        """Read ``instant``, ``polls:N``, ``seconds:N``, ``manual``, ``realistic`` or ``realistic:N``."""
        if text in ("instant", "manual"):
            return cls(text)
        if text == "realistic":
            return cls(text, MEDIAN_SECONDS)
        if found := re.fullmatch(r"(polls):(\d+)|(seconds|realistic):(\d+(?:\.\d+)?)", text):
            if found[1]:
                return cls("polls", max(1, int(found[2])))
            return cls(found[3], float(found[4]))
        raise ValueError(
            f"progression is {text!r}: choose instant, polls:N, seconds:N, manual, realistic or realistic:N"
        )

    def __str__(self) -> str:
        has_no_amount = self.mode in ("instant", "manual") or self == Progression("realistic", MEDIAN_SECONDS)
        return self.mode if has_no_amount else f"{self.mode}:{self.amount:g}"

    def due(self, job: Job, now: float) -> Status:
        """Return the status that a job should have now, even if its file is not ready."""
        if self.mode == "instant":
            return "complete"
        if self.mode == "polls":
            if job.polls >= self.amount:
                return "complete"
            return "queued" if job.polls <= (self.amount - 1) // 2 else "rendering"
        if self.mode in ("seconds", "realistic"):
            total = self.amount * (job.render_time_factor if self.mode == "realistic" else 1)
            age = now - job.created_at
            if age >= total:
                return "complete"
            return "rendering" if age >= total * QUEUED_SHARE else "queued"
        return job.status


@dataclass(frozen=True)
class Output:
    """
    A rendered file and its properties. As in the vendor's responses, -1 means no width or height.

    :param more: the other files of a job that makes several images.
    """

    path: Path
    width: int = -1
    height: int = -1
    fps: float = 30.0
    engine: str | None = None
    more: tuple[Path, ...] = ()


@dataclass
class Job:
    """
    A Magic Hour project.

    :param id: the id in URLs.
    :param response_id: the id in responses. A fault can make it a number.
    :param request: the JSON of the accepted request.
    :param ends: how a fault ends the job: ``error:<code>``, ``canceled`` or ``deleted``.
    :param files: the local path of each result, by its path at the storage host. It is empty until the job
        is rendered.
    """

    id: str
    response_id: str | int
    job_type: JobType
    tool: str
    name: str
    request: dict[str, Any]
    price: Decimal
    created_at: float
    credits_charged: int
    render_time_factor: float
    render: asyncio.Task[Output] | None = None
    status: Status = "queued"
    polls: int = 0
    enabled: bool = True
    error: dict[str, str] | None = None
    output: Output | None = None
    ends: str | None = None
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    def publish(self, output: Output) -> None:
        """Assign a path at the storage host to each result."""
        for number, path in enumerate((output.path, *output.more)):
            name = f"output-{number}" if number else "output"
            self.files[f"{quote(self.id, safe='')}/{name}{path.suffix}"] = path


@dataclass
class Account:
    """The credits, and a ledger of every change to them."""

    clock: Clock
    credits: int
    tier: str
    ledger: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_LEDGER_ENTRIES))

    def deduct(self, entry_type: Literal["charge", "refund", "correction"], job: Job, amount: int) -> None:
        """Deduct credits, and add an entry to the ledger. A negative amount adds credits."""
        self.credits -= amount
        self.ledger.append(
            {
                "entry_type": entry_type,
                "job_id": job.id,
                "job_type": job.job_type,
                "name": job.name,
                "credits": amount,
                "at": timestamp(self.clock.now()),
            }
        )


class Jobs:
    """The jobs, oldest first. Only this class changes a job's status."""

    def __init__(self, account: Account, progression: Progression, max_jobs: int, seed: int | None) -> None:
        self.account = account
        self.clock = account.clock
        self.progression = progression
        self.max_jobs = max_jobs
        self.all: dict[str, Job] = {}
        # Called after each change of a job's status.
        self.on_change: Callable[[Job], None] = lambda job: None
        # Called when a job no longer needs its files.
        self.on_drop: Callable[[Job], None] = lambda job: None
        self._random = random.Random(seed)  # noqa: S311 - render times, not secrets

    def create(
        self,
        job_type: JobType,
        tool: str,
        name: str,
        request: dict[str, Any],
        price: Decimal,
        fault: FaultRule | None,
    ) -> Job:
        """Create a job, and charge its estimated price."""
        job_id: str | int = "cm" + secrets.token_hex(12)[:23]
        if fault and fault.job_id is not None:
            job_id = fault.job_id
        job = Job(
            id=str(job_id),
            response_id=job_id,
            job_type=job_type,
            tool=tool,
            name=name,
            request=request,
            price=price,
            created_at=self.clock.now(),
            credits_charged=whole_credits(price),
            render_time_factor=self._random.lognormvariate(0, LOG_STANDARD_DEVIATION),
            ends=fault.ends if fault else None,
        )
        self.all[job.id] = job
        self.account.deduct("charge", job, job.credits_charged)
        self._drop_oldest()
        return job

    def advance(self, job: Job) -> None:
        """Move a job to the status that is due. A job is not complete before its file exists."""
        if not job.active:
            return
        due = self.progression.due(job, self.clock.now())
        if due == "queued":
            return
        self.start(job)
        if due == "complete":
            self.finish(job)

    def start(self, job: Job) -> None:
        """Move a queued job to ``rendering``."""
        if job.status == "queued":
            job.status = "rendering"
            self.on_change(job)

    def finish(self, job: Job) -> None:
        """End a job if its render has ended, or if a fault ends it with an error or cancels it."""
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
        final_credits = whole_credits(job.price * Decimal(str(job.output.fps)) / 30)
        if job.job_type == "video" and final_credits != job.credits_charged:
            self.account.deduct("correction", job, final_credits - job.credits_charged)
            job.credits_charged = final_credits
        if job.ends == "deleted" or not job.enabled:
            self.delete(job)
        self.on_change(job)

    def fail(self, job: Job, code: str, message: str) -> None:
        """End a job with an error, and refund it."""
        job.status = "error"
        job.error = {"code": code, "message": message or default_message(code)}
        self._refund(job)
        self.on_change(job)

    def cancel(self, job: Job) -> None:
        """Cancel a job, and refund it."""
        job.status = "canceled"
        self._refund(job)
        self.on_change(job)

    def delete(self, job: Job) -> None:
        """Delete a job's files. There is no refund, and a render in progress continues."""
        job.enabled = False
        self.on_drop(job)

    def drop(self, job: Job) -> None:
        """Remove a job, so that the number of jobs stays limited."""
        del self.all[job.id]
        self.on_drop(job)

    def _refund(self, job: Job) -> None:
        if job.credits_charged:
            self.account.deduct("refund", job, -job.credits_charged)
            job.credits_charged = 0

    def _drop_oldest(self) -> None:
        surplus = len(self.all) - self.max_jobs
        if surplus <= 0:
            return
        for job in [job for job in self.all.values() if not job.active][:surplus]:
            self.drop(job)


def whole_credits(price: Decimal) -> int:
    """Round a price up, because credits are whole numbers."""
    return int(price.to_integral_value(ROUND_CEILING))


def timestamp(seconds: float) -> str:
    """Format a time as the vendor does: ISO 8601 in UTC, with milliseconds."""
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
