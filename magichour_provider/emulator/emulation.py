"""One emulated Magic Hour: its parts, and the operations that need more than one of them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from .exceptions import ApiError
from .faults import Faults
from .models import Account, Clock, Job, Jobs, Progression, timestamp
from .render_service import RenderService
from .storage_host import StorageHost
from .tools import type_of
from .validation import invalid
from .webhooks import Webhooks
from .worker_pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from decimal import Decimal
    from pathlib import Path

    from .faults import FaultRule
    from .models import Output
    from .settings import Settings
    from .tools import ToolRequest
    from .validation import TalkingPhotoRequest, VoiceRequest

MAX_REQUEST_RECORDS = 10_000
# A poll at which a job is due waits so long for its file, then it answers "rendering".
POLL_PATIENCE_SECONDS = 5.0
TICK_SECONDS = 0.25


class Emulation:
    """The emulated service. It is created and used on one event loop."""

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
        """Stop every render, worker and webhook."""
        for task in (self._ticking, *(job.render for job in self.jobs.all.values())):
            if task:
                task.cancel()
        await self.webhooks.close()
        await self.workers.close()

    def submit_talking_photo(
        self, request: TalkingPhotoRequest, body: dict[str, Any], fault: FaultRule | None
    ) -> Job:
        """Charge for a video and start to render it.

        :raises ApiError: 402 when the credits do not suffice, 422 when an upload does not exist; nothing
            is charged.
        """
        for field, asset in (
            ("assets.image_file_path", request.image),
            ("assets.audio_file_path", request.audio),
        ):
            if asset.source == "upload" and self.storage.uploaded(asset.where) is None:
                invalid(field, f"{asset.where} was never uploaded, or is no longer kept")
        self._require_credits(request.price)
        name = f"Talking Photo - {self._date()}" if request.name is None else request.name
        job = self.jobs.create("video", "ai-talking-photo", name, body, request.price, fault)
        return self._start(job, self.renders.video(job, request))

    def submit_voice(self, request: VoiceRequest, body: dict[str, Any], fault: FaultRule | None) -> Job:
        """Charge for a voice and start to render it.

        :raises ApiError: 402 when the credits do not suffice; nothing is charged.
        """
        self._require_credits(request.price)
        name = f"Voice Generator - {self._date()}" if request.name is None else request.name
        job = self.jobs.create("audio", "ai-voice-generator", name, body, request.price, fault)
        return self._start(job, self.renders.voice(job, request))

    def submit_tool(self, request: ToolRequest, body: dict[str, Any], fault: FaultRule | None) -> Job:
        """Charge for any other tool and start to render its stand-in.

        :raises ApiError: 402 when the credits do not suffice, 422 when an upload does not exist; nothing
            is charged.
        """
        for field, _, asset in request.inputs:
            # Detected faces are named by the vendor, not uploaded.
            is_detected = field.endswith("original_face")
            if asset.source == "upload" and not is_detected and self.storage.uploaded(asset.where) is None:
                invalid(field, f"{asset.where} was never uploaded, or is no longer kept")
        self._require_credits(request.price)
        name = f"{request.title} - {self._date()}" if request.name is None else request.name
        job = self.jobs.create(request.job_type, request.tool, name, body, request.price, fault)
        return self._start(job, self.renders.tool(job, request))

    async def poll(self, job: Job) -> None:
        """Count a client's poll, and move the job to the status that is due."""
        job.polls += 1
        if self.jobs.progression.mode in ("instant", "polls"):
            await self._wait_if_due(job, POLL_PATIENCE_SECONDS)
        self.jobs.advance(job)

    async def advance_clock(self, seconds: float) -> None:
        """Set the clock forward; the jobs that are due by then have ended when this returns."""
        self.clock.advance(seconds)
        for job in list(self.jobs.all.values()):
            await self._wait_if_due(job)
            self.jobs.advance(job)

    async def wait_for_render(self, job: Job, timeout: float | None = None) -> None:
        """Wait for a job's file, at most so many seconds."""
        if job.render and not job.render.done():
            await asyncio.wait([job.render], timeout=timeout)

    def details(self, job: Job, base_url: str | None = None) -> dict[str, Any]:
        """The answer to ``GET /v1/video-projects/{id}`` or its twins, with fresh signed URLs.

        :param base_url: the address at which the client knows the emulator.
        """
        downloads = []
        if job.status == "complete" and job.enabled and job.output:
            for name in job.files:
                url, expires_at = self.storage.sign(base_url or self.base_url, "GET", name)
                downloads.append({"url": url, "expires_at": expires_at})
        common = {
            "id": job.shown_id,
            "name": job.name,
            "status": job.status,
            "type": type_of(job.tool),
            "created_at": timestamp(job.created_at),
            "enabled": job.enabled,
            "credits_charged": job.credits_charged,
            "error": job.error,
            "downloads": downloads,
        }
        if job.job_type == "audio":
            return common
        if job.job_type == "image":
            # The vendor has deprecated total_frame_cost, but its own SDK requires it.
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
            # The vendor has deprecated these two, but its own SDK requires them.
            "download": downloads[0] if downloads else None,
            "total_frame_cost": job.credits_charged,
        }

    async def _wait_if_due(self, job: Job, timeout: float | None = None) -> None:
        if job.active and self.jobs.progression.due(job, self.clock.now()) == "complete":
            await self.wait_for_render(job, timeout)

    def _start(self, job: Job, render: Coroutine[Any, Any, Output]) -> Job:
        job.render = asyncio.create_task(render)
        # A callback, so that the client gets its answer before the job can end.
        job.render.add_done_callback(lambda _: self._on_rendered(job))
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        return job

    def _on_rendered(self, job: Job) -> None:
        if job.render and not job.render.cancelled():
            # Retrieved here, or asyncio logs it as never retrieved.
            job.render.exception()
            if self.jobs.progression.mode != "polls":
                self.jobs.advance(job)

    async def _tick(self) -> None:
        """Advance the jobs that no client polls: the webhooks depend on it."""
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

    def _date(self) -> str:
        return timestamp(self.clock.now())[:19].replace("T", " ")
