"""
Turns accepted requests into files.

It finds the inputs, renders equal requests only once, and counts the jobs of each file, so that the disk
usage stays bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from .exceptions import RenderError
from .models import SUFFIXES, Output
from .storage_host import delete_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .models import Job, Jobs
    from .settings import Settings
    from .storage_host import StorageHost
    from .tools import ToolRequest
    from .validation import Asset, TalkingPhotoRequest, VoiceRequest
    from .worker_pool import WorkerPool

LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
FETCH_SECONDS = 30
STUB_VIDEO = Path(__file__).with_name("stub.mp4")
STUB_VIDEO_SIDE = 64
STUB_VOICE = Path(__file__).with_name("stub.wav")
STUB_IMAGE = Path(__file__).with_name("stub.png")
# Stands for the digest of a library asset, which the emulator does not have.
NO_DIGEST = "stand-in"


@dataclass
class CachedRender:
    """A rendered file and the ids of the jobs whose result it is."""

    key: str
    size: int
    job_ids: set[str] = field(default_factory=set)


class RenderService:
    """Renders with worker processes, or publishes a stub file."""

    def __init__(
        self, folder: Path, storage: StorageHost, jobs: Jobs, workers: WorkerPool, settings: Settings
    ) -> None:
        self.folder = folder
        self.storage = storage
        self.jobs = jobs
        self.workers = workers
        self.settings = settings
        self._tasks: dict[str, asyncio.Task[Output]] = {}
        self._cache: dict[Path, CachedRender] = {}

    async def video(self, job: Job, request: TalkingPhotoRequest) -> Output:
        """The MP4 of a talking photo.

        :raises RenderError: with the vendor's code.
        """
        if self.settings.render == "stub":
            side = STUB_VIDEO_SIDE
            return self._publish(job, Output(STUB_VIDEO, side, side, self.settings.fps))
        async with self._input(request.image) as image, self._input(request.audio) as audio:
            spec = {
                "task": "video",
                "start": request.start,
                "end": request.end,
                "short": request.short,
                "long": request.long,
                "fps": self.settings.fps,
            }
            return self._publish(job, await self._render_once(job, spec, photo=image, audio=audio))

    async def voice(self, job: Job, request: VoiceRequest) -> Output:
        """The WAV of a spoken text.

        :raises RenderError: with the vendor's code.
        """
        if self.settings.render == "stub":
            return self._publish(job, Output(STUB_VOICE, engine="stub"))
        spec = {
            "task": "voice",
            "text": request.text,
            "voice": request.voice,
            "engine": self.settings.engine,
        }
        return self._publish(job, await self._render_once(job, spec))

    async def tool(self, job: Job, request: ToolRequest) -> Output:
        """What stands in for the result of any other tool.

        :raises RenderError: with the vendor's code.
        """
        if self.settings.render == "stub":
            return self._publish(job, self._stub(request))
        async with AsyncExitStack() as stack:
            inputs = {}
            for media_type in ("video", "image", "audio"):
                if asset := request.first(media_type):
                    inputs[media_type] = await stack.enter_async_context(self._input(asset))
            spec = {
                "task": {"video": "clip", "image": "image", "audio": "sound"}[request.job_type],
                "tool": request.tool,
                "title": request.title,
                "text": request.text,
                "spoken": request.spoken,
                "start": request.start,
                "end": request.end,
                "fps": self.settings.fps,
                "size": request.size,
                "engine": self.settings.engine,
                "suffix": f".{request.extension}" if request.extension else SUFFIXES[request.job_type],
            }
            outputs = [
                await self._render_once(job, spec | {"number": number, "count": request.count}, **inputs)
                for number in range(1, request.count + 1)
            ]
        more = tuple(output.path for output in outputs[1:])
        return self._publish(job, replace(outputs[0], more=more))

    def _stub(self, request: ToolRequest) -> Output:
        side = STUB_VIDEO_SIDE
        match request.job_type:
            case "audio":
                return Output(STUB_VOICE, engine="stub")
            case "image" if request.extension not in ("mp4", "webm"):
                return Output(STUB_IMAGE, side, side, more=(STUB_IMAGE,) * (request.count - 1))
            case _:
                return Output(STUB_VIDEO, side, side, self.settings.fps)

    def release(self, job: Job) -> None:
        """Take a job's files from it; the last job's release deletes the file."""
        for name, path in job.files.items():
            self.storage.results.pop(name, None)
            cached = self._cache.get(path)
            if cached is None:
                continue
            cached.job_ids.discard(job.id)
            if not cached.job_ids:
                del self._cache[path]
                del self._tasks[cached.key]
                delete_file(path)
        job.files.clear()

    def _publish(self, job: Job, output: Output) -> Output:
        job.publish(output)
        for name, path in job.files.items():
            self.storage.results[name] = path
            if path in self._cache:
                self._cache[path].job_ids.add(job.id)
        self._drop_oldest(newest=job)
        return output

    def _drop_oldest(self, newest: Job) -> None:
        for job in list(self.jobs.all.values()):
            if sum(cached.size for cached in self._cache.values()) <= self.storage.max_bytes:
                return
            if job is not newest and not job.active:
                self.jobs.drop(job)

    async def _render_once(self, job: Job, spec: dict[str, Any], **inputs: tuple[str | None, str]) -> Output:
        """Render, or wait for an equal render, or take its result."""
        digests = {name: digest for name, (_, digest) in inputs.items()}
        key = hashlib.sha256(json.dumps([spec, digests], sort_keys=True).encode()).hexdigest()
        spec = spec | {name: path for name, (path, _) in inputs.items()}
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._tasks[key] = asyncio.create_task(self._render(key, job, spec))
        return await asyncio.shield(task)

    async def _render(self, key: str, job: Job, spec: dict[str, Any]) -> Output:
        path = self.folder / f"{secrets.token_hex(12)}{spec.get('suffix', SUFFIXES[job.job_type])}"
        rendered = await self.workers.run(spec | {"out": str(path)})
        self._cache[path] = CachedRender(key, (await asyncio.to_thread(path.stat)).st_size)
        return Output(
            path,
            rendered.get("width", -1),
            rendered.get("height", -1),
            rendered.get("fps", 30.0),
            rendered.get("engine"),
        )

    @asynccontextmanager
    async def _input(self, asset: Asset) -> AsyncIterator[tuple[str | None, str]]:
        """The local path of an input (None: draw a stand-in) and its digest, while they are needed."""
        if asset.source == "upload":
            upload = self.storage.uploaded(asset.where)
            if upload is None:
                raise RenderError("invalid_parameters", f"{asset.where} is no longer kept")
            use = self.storage.in_use
            use[asset.where] = use.get(asset.where, 0) + 1
            try:
                yield str(upload.path), str(upload.digest)
            finally:
                use[asset.where] -= 1
        elif asset.source == "library":
            # Of a library, the emulator has only what it has made itself.
            job = self.jobs.all.get(asset.where)
            own = job.output.path if job and job.output and job.files else None
            yield str(own) if own else None, own.stem if own else NO_DIGEST
        else:
            # The extension is a hint to the decoder, as it is for an upload.
            suffix = Path(urlsplit(asset.where).path).suffix
            path = self.folder / f"fetched-{secrets.token_hex(8)}{suffix}"
            try:
                yield str(path), await self._fetch(asset.where, path)
            finally:
                delete_file(path)

    async def _fetch(self, url: str, path: Path) -> str:
        if self.settings.fetch == "loopback" and not LOOPBACK.fullmatch(urlsplit(url).hostname or ""):
            raise RenderError(
                "invalid_file_format",
                "The file could not be fetched: this emulator fetches only from this machine"
                " (start it with --fetch any to change that)",
            )
        digest, size = hashlib.sha256(), 0
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, allow_redirects=self.settings.fetch == "any") as answer,
            ):
                if answer.status != 200:
                    raise RenderError(
                        "invalid_file_format", f"The file could not be fetched: HTTP {answer.status}"
                    )
                file = await asyncio.to_thread(path.open, "wb")
                with closing(file):
                    async for chunk in answer.content.iter_chunked(1 << 16):
                        size += len(chunk)
                        if size > self.storage.max_upload_bytes:
                            raise RenderError("file_too_large", "The file is too large")
                        digest.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise RenderError(
                "invalid_file_format", f"The file could not be fetched: {type(error).__name__}"
            ) from error
        return digest.hexdigest()
