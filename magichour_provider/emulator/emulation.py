"""One emulated Magic Hour: its components, and the operations that need more than one of them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from .exceptions import ApiError
from .faults import Faults
from .models import Account, Clock, Job, Jobs, Progression, timestamp
from .render_service import RenderService
from .storage_host import StorageHost
from .tools import project_type
from .validation import invalid
from .webhooks import Webhooks
from .worker_pool import WorkerPool

if TYPE_CHECKING:
    from decimal import Decimal
    from pathlib import Path

    from .faults import FaultRule
    from .render_service import JobRequest
    from .settings import Settings

MAX_REQUEST_RECORDS = 10_000
# If a job is due at a poll, the poll waits at most this long for its file. Then the status is "rendering".
MAX_POLL_SECONDS = 5.0
TICK_SECONDS = 0.25


class Emulation:
    """The emulated service. Create and use it on one event loop."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.clock = Clock()
        self.account = Account(self.clock, settings.credits, settings.tier)
        progression = Progression.parse(settings.progression)
        self.jobs = Jobs(self.account, progression, settings.max_jobs, settings.seed)
        max_bytes = settings.max_disk_mb << 20
        self.storage = StorageHost(folder / "uploads", self.clock, settings.tier, max_bytes)
        self.workers = WorkerPool(settings.workers)
        self.renders = RenderService(folder / "renders", self.storage, self.jobs, self.workers, settings)
        self.faults = Faults()
        self.webhooks = Webhooks(self.clock)
        self.requests: deque[dict[str, Any]] = deque(maxlen=MAX_REQUEST_RECORDS)
        self.calls: Counter[str] = Counter()
        self.base_url = ""
        self.jobs.on_drop = self.renders.release
        self.jobs.on_change = lambda job: self.webhooks.send(job, self.details(job))
        self._ticking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop all renders, workers and webhooks."""
        for task in (self._ticking, *(job.render for job in self.jobs.all.values())):
            if task:
                task.cancel()
        await self.webhooks.close()
        await self.workers.close()

    def submit(self, request: JobRequest, body: dict[str, Any], fault: FaultRule | None) -> Job:
        """Charge for a job, and start its render.

        :param body: the request's JSON.
        :raises ApiError: 422 if an upload does not exist, 402 if there are not enough credits. Nothing is
            charged.
        """
        for field, _, asset in request.inputs:
            # A detected face has the path of an upload, but clients do not upload it.
            if asset.source != "upload" or field.endswith("original_face"):
                continue
            if self.storage.find_upload(asset.location) is None:
                invalid(field, f"{asset.location} was never uploaded, or its upload has expired")
        self._require_credits(request.price)
        name = request.name
        if name is None:
            name = f"{request.title} - {timestamp(self.clock.now())[:19].replace('T', ' ')}"
        job = self.jobs.create(request.job_type, request.tool, name, body, request.price, fault)
        job.render = asyncio.create_task(self.renders.render(job, request))
        # A callback runs later, so the client gets the response before the job can end.
        job.render.add_done_callback(lambda _: self._on_rendered(job))
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        return job

    async def poll(self, job: Job) -> None:
        """Count a client's poll, and move the job to the status that is due."""
        job.polls += 1
        if self.jobs.progression.mode in ("instant", "polls"):
            await self._wait_if_due(job, MAX_POLL_SECONDS)
        self.jobs.advance(job)

    async def advance_clock(self, seconds: float) -> None:
        """Set the clock forward, and end the jobs that are then due."""
        self.clock.advance(seconds)
        for job in list(self.jobs.all.values()):
            await self._wait_if_due(job)
            self.jobs.advance(job)

    async def wait_for_render(self, job: Job, timeout: float | None = None) -> None:
        """Wait for a job's file, for at most ``timeout`` seconds."""
        if job.render and not job.render.done():
            await asyncio.wait([job.render], timeout=timeout)

    def details(self, job: Job, base_url: str | None = None) -> dict[str, Any]:
        """Return the response to ``GET /v1/<job type>-projects/{id}``, with new signed URLs.

        :param base_url: the URL at which the client reaches the emulator.
        """
        downloads = []
        if job.status == "complete" and job.enabled and job.output:
            for name in job.files:
                url, expires_at = self.storage.sign(base_url or self.base_url, "GET", name)
                downloads.append({"url": url, "expires_at": expires_at})
        common = {
            "id": job.response_id,
            "name": job.name,
            "status": job.status,
            "type": project_type(job.tool),
            "created_at": timestamp(job.created_at),
            "enabled": job.enabled,
            "credits_charged": job.credits_charged,
            "error": job.error,
            "downloads": downloads,
        }
        if job.job_type == "audio":
            return common
        if job.job_type == "image":
            # total_frame_cost is deprecated, but the vendor's SDK requires it.
            return common | {
                "image_count": int(job.request.get("image_count", 1)),
                "total_frame_cost": job.credits_charged,
            }
        return common | {
            "width": job.output.width if job.output else -1,
            "height": job.output.height if job.output else -1,
            "start_seconds": job.request.get("start_seconds", 0),
            "end_seconds": job.request["end_seconds"],
            "fps": job.output.fps if job.output else 30.0,
            # These two are deprecated, but the vendor's SDK requires them.
            "download": downloads[0] if downloads else None,
            "total_frame_cost": job.credits_charged,
        }

    async def _wait_if_due(self, job: Job, timeout: float | None = None) -> None:
        if job.active and self.jobs.progression.due(job, self.clock.now()) == "complete":
            await self.wait_for_render(job, timeout)

    def _on_rendered(self, job: Job) -> None:
        if job.render and not job.render.cancelled():
            # asyncio logs an exception that nothing retrieves.
            job.render.exception()
            if self.jobs.progression.mode != "polls":
                self.jobs.advance(job)

    async def _tick(self) -> None:
        """Advance the jobs that no client polls, because their webhook events depend on it."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self.jobs.progression.mode in ("seconds", "realistic"):
                for job in list(self.jobs.all.values()):
                    self.jobs.advance(job)
            if not any(job.active for job in self.jobs.all.values()):
                self._ticking = None
                return

    def _require_credits(self, price: Decimal) -> None:
        if price > self.account.credits:
            raise ApiError(
                402,
                f"Payment required: this costs {price:f} credits and the account has {self.account.credits}",
            )
