"""One emulated Magic Hour: its parts, put together, and what can be asked of the whole."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from . import rules
from .faults import Faults
from .state import Account, Clock, Job, Jobs, Moves, timestamp
from .storage import Storage
from .studio import Studio
from .webhooks import Webhooks
from .workers import Workers

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from decimal import Decimal
    from pathlib import Path

    from .settings import Settings
    from .state import Output

REQUESTS_KEPT = 10_000
# How long a look that is due waits for its file, before it says "rendering" after all.
PATIENCE_SECONDS = 5.0
TICK_SECONDS = 0.25


class World:
    """The emulated service. Made and used on one event loop."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.clock = Clock()
        self.account = Account(self.clock, settings.credits, settings.tier)
        moves = Moves.parse(settings.moves)
        self.jobs = Jobs(self.account, moves, settings.max_jobs, settings.seed)
        limit = settings.max_disk_mb << 20
        self.storage = Storage(self.folder / "uploads", self.clock, settings.tier, limit)
        self.workers = Workers(settings.workers)
        renders = self.folder / "renders"
        self.studio = Studio(renders, self.storage, self.jobs, self.workers, settings)
        self.faults = Faults()
        self.webhooks = Webhooks(self.clock)
        self.requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_KEPT)
        self.calls: Counter[str] = Counter()
        self.base = ""
        self.jobs.on_drop = self.studio.release
        self.jobs.on_change = lambda job: self.webhooks.announce(job, self.details(job))
        self._ticking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop everything."""
        for task in (self._ticking, *(job.render for job in self.jobs.all.values())):
            if task:
                task.cancel()
        await self.webhooks.close()
        await self.workers.close()

    def talking_photo(self, wanted: rules.TalkingPhoto, body: dict[str, Any]) -> Job:
        """Take the order for a video, and its price.

        :raises ApiError: 402 when the credits do not suffice, 422 for a file that never came.
        """
        for field, asset in (
            ("assets.image_file_path", wanted.image),
            ("assets.audio_file_path", wanted.audio),
        ):
            if asset.source == "upload" and self.storage.uploaded(asset.where) is None:
                rules.invalid(field, f"{asset.where} was never uploaded, or is no longer kept")
        self._afford(wanted.price)
        name = f"Talking Photo - {self._date()}" if wanted.name is None else wanted.name
        job = self.jobs.create("video", name, body, wanted.price)
        return self._begin(job, self.studio.film(job, wanted))

    def voice(self, wanted: rules.Speech, body: dict[str, Any]) -> Job:
        """Take the order for a voice, and its price."""
        self._afford(wanted.price)
        name = f"Voice Generator - {self._date()}" if wanted.name is None else wanted.name
        job = self.jobs.create("audio", name, body, wanted.price)
        return self._begin(job, self.studio.speak(job, wanted))

    async def look(self, job: Job) -> None:
        """A client looks at a job: a step on the job's walk."""
        job.looks += 1
        if self.jobs.moves.kind in ("instant", "looks"):
            await self.settle(job, PATIENCE_SECONDS)
        self.jobs.walk(job)

    async def settle(self, job: Job, patience: float | None = None) -> None:
        """Wait for the file of a job that is due, for so long."""
        if job.active and self.jobs.moves.due(job, self.clock.now()) == "complete":
            await self.rendered(job, patience)

    async def rendered(self, job: Job, patience: float | None = None) -> None:
        """Wait for a job's file, for so long."""
        if job.render and not job.render.done():
            await asyncio.wait([job.render], timeout=patience)

    async def advance(self, seconds: float) -> None:
        """Set the clock forward; what is due by then has happened when this returns."""
        self.clock.advance(seconds)
        for job in list(self.jobs.all.values()):
            await self.settle(job)
            self.jobs.walk(job)

    def details(self, job: Job, base: str | None = None) -> dict[str, Any]:
        """A project as the details call shows it; each time with a fresh signed URL.

        :param base: the address by which the asker knows the emulator.
        """
        downloads = []
        if job.status == "complete" and job.enabled and job.output:
            name = f"{job.id}/output{job.output.path.suffix}"
            url, expires_at = self.storage.sign(base or self.base, "GET", name)
            downloads.append({"url": url, "expires_at": expires_at})
        common = {
            "id": job.id,
            "name": job.name,
            "status": job.status,
            "type": "TALKING_PHOTO" if job.kind == "video" else "VOICE_GENERATOR",
            "created_at": timestamp(job.created_at),
            "enabled": job.enabled,
            "credits_charged": job.credits_charged,
            "error": job.error,
            "downloads": downloads,
        }
        if job.kind == "audio":
            return common
        return common | {
            "width": job.output.width if job.output else -1,
            "height": job.output.height if job.output else -1,
            "start_seconds": job.request["start_seconds"],
            "end_seconds": job.request["end_seconds"],
            "fps": job.output.fps if job.output else 30.0,
            # Deprecated by the vendor, and still demanded by its own SDK.
            "download": downloads[0] if downloads else None,
            "total_frame_cost": job.credits_charged,
        }

    def _begin(self, job: Job, making: Coroutine[Any, Any, Output]) -> Job:
        job.render = asyncio.create_task(making)
        # Not at once: first the client gets its answer, then the job may end.
        job.render.add_done_callback(lambda _: self._on_rendered(job))
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick())
        return job

    def _on_rendered(self, job: Job) -> None:
        if job.render and not job.render.cancelled():
            job.render.exception()
            if self.jobs.moves.kind != "looks":
                self.jobs.walk(job)

    async def _tick(self) -> None:
        """Time passes for jobs that nobody looks at, too; webhooks depend on it."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self.jobs.moves.kind in ("seconds", "realistic"):
                for job in list(self.jobs.all.values()):
                    self.jobs.walk(job)
            if not any(job.active for job in self.jobs.all.values()):
                self._ticking = None
                return

    def _afford(self, price: Decimal) -> None:
        if price > self.account.credits:
            raise rules.ApiError(
                402,
                f"Payment required: this costs {price:f} credits and the account has {self.account.credits}",
            )

    def _date(self) -> str:
        return timestamp(self.clock.now())[:19].replace("T", " ")
