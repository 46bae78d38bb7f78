"""
The render service: it makes the files of accepted requests.

It reads the inputs, and renders equal requests only once. It knows the jobs that need each file, so that the
disk usage stays limited.
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
from .tools import ToolRequest
from .validation import TalkingPhotoRequest, VoiceRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .models import Job, Jobs
    from .settings import Settings
    from .storage_host import StorageHost
    from .validation import Asset
    from .worker_pool import WorkerPool

JobRequest = TalkingPhotoRequest | VoiceRequest | ToolRequest

LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
MAX_FETCH_SECONDS = 30
STUB_VIDEO = Path(__file__).with_name("stub.mp4")
STUB_VIDEO_SIDE = 64
STUB_VOICE = Path(__file__).with_name("stub.wav")
STUB_IMAGE = Path(__file__).with_name("stub.png")
# The digest of a library asset that is not in the emulator.
STAND_IN_DIGEST = "stand-in"


@dataclass
class CachedRender:
    """A rendered file, and the ids of the jobs that need it."""

    key: str
    size: int
    job_ids: set[str] = field(default_factory=set)


class RenderService:
    """Renders files in worker processes, or publishes stub files instead."""

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

    async def render(self, job: Job, request: JobRequest) -> Output:
        """Render a job, and publish its files.

        :raises RenderError: with the vendor's code.
        """
        if self.settings.render == "stub":
            output = self._stub(request)
        elif isinstance(request, TalkingPhotoRequest):
            output = await self._render_video(job, request)
        elif isinstance(request, VoiceRequest):
            output = await self._render_voice(job, request)
        else:
            output = await self._render_tool(job, request)
        job.publish(output)
        for name, path in job.files.items():
            self.storage.results[name] = path
            if path in self._cache:
                self._cache[path].job_ids.add(job.id)
        self._drop_oldest(newest=job)
        return output

    def _stub(self, request: JobRequest) -> Output:
        side = STUB_VIDEO_SIDE
        if request.job_type == "audio":
            return Output(STUB_VOICE, engine="stub")
        if (
            isinstance(request, ToolRequest)
            and request.job_type == "image"
            and request.extension not in ("mp4", "webm")
        ):
            return Output(STUB_IMAGE, side, side, more=(STUB_IMAGE,) * (request.count - 1))
        return Output(STUB_VIDEO, side, side, self.settings.fps)

    async def _render_video(self, job: Job, request: TalkingPhotoRequest) -> Output:
        async with self._input(request.image) as image, self._input(request.audio) as audio:
            spec = {
                "task": "video",
                "start": request.start,
                "end": request.end,
                "short_side": request.short_side,
                "max_long_side": request.max_long_side,
                "fps": self.settings.fps,
            }
            return await self._render_once(job, spec, photo=image, audio=audio)

    async def _render_voice(self, job: Job, request: VoiceRequest) -> Output:
        spec = {
            "task": "voice",
            "text": request.text,
            "voice": request.voice,
            "engine": self.settings.engine,
        }
        return await self._render_once(job, spec)

    async def _render_tool(self, job: Job, request: ToolRequest) -> Output:
        async with AsyncExitStack() as stack:
            inputs = {}
            for media_type in ("video", "image", "audio"):
                if asset := request.first_input(media_type):
                    inputs[media_type] = await stack.enter_async_context(self._input(asset))
            spec = {
                "task": {"video": "clip", "image": "image", "audio": "audio"}[request.job_type],
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
        return replace(outputs[0], more=tuple(output.path for output in outputs[1:]))

    def release(self, job: Job) -> None:
        """Remove the files of a job. A file that another job needs stays on the disk."""
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

    def _drop_oldest(self, newest: Job) -> None:
        for job in list(self.jobs.all.values()):
            if sum(cached.size for cached in self._cache.values()) <= self.storage.max_bytes:
                return
            if job is not newest and not job.active:
                self.jobs.drop(job)

    async def _render_once(self, job: Job, spec: dict[str, Any], **inputs: tuple[str | None, str]) -> Output:
        """Render a file. If there is an equal render, use its result."""
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
        """Yield the local path and the digest of an input. The file exists until the context ends.

        Without a path, the render draws a stand-in.
        """
        if asset.source == "upload":
            upload = self.storage.find_upload(asset.location)
            if upload is None:
                raise RenderError("invalid_parameters", f"{asset.location} has expired")
            readers = self.storage.readers
            readers[asset.location] = readers.get(asset.location, 0) + 1
            try:
                yield str(upload.path), str(upload.digest)
            finally:
                readers[asset.location] -= 1
        elif asset.source == "library":
            # The emulator has only the library files that it has rendered.
            job = self.jobs.all.get(asset.location)
            file = job.output.path if job and job.output and job.files else None
            yield str(file) if file else None, file.stem if file else STAND_IN_DIGEST
        else:
            # Keep the extension, because the decoder uses it as a hint.
            suffix = Path(urlsplit(asset.location).path).suffix
            path = self.folder / f"fetched-{secrets.token_hex(8)}{suffix}"
            try:
                yield str(path), await self._fetch(asset.location, path)
            finally:
                delete_file(path)

    async def _fetch(self, url: str, path: Path) -> str:
        """Download a file. Return its digest."""
        if self.settings.fetch == "loopback" and not LOOPBACK.fullmatch(urlsplit(url).hostname or ""):
            raise RenderError(
                "invalid_file_format",
                "The file could not be fetched: the emulator fetches only from this machine"
                " (to change this, start it with --fetch any)",
            )
        digest, size = hashlib.sha256(), 0
        timeout = aiohttp.ClientTimeout(total=MAX_FETCH_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(url, allow_redirects=self.settings.fetch == "any") as response,
            ):
                if response.status != 200:
                    raise RenderError(
                        "invalid_file_format", f"The file could not be fetched: HTTP {response.status}"
                    )
                file = await asyncio.to_thread(path.open, "wb")
                with closing(file):
                    async for chunk in response.content.iter_chunked(1 << 16):
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
