"""
From an accepted request to a file: finds the inputs, has equal requests rendered once, keeps count
of who uses which file so that the disk stays bounded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp

from .state import Output, RenderError
from .storage import discard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .rules import Asset, Speech, TalkingPhoto
    from .settings import Settings
    from .state import Job, Jobs
    from .storage import Storage
    from .workers import Workers

LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
FETCH_SECONDS = 30
STUB = Path(__file__).with_name("stub.mp4")
STUB_VOICE = Path(__file__).with_name("stub.wav")
STUB_SIZE = 64
RESULT = {"video": "output.mp4", "audio": "output.wav"}
NO_FILE = "stand-in"


@dataclass
class Kept:
    """A rendered file, and the jobs that it is the result of."""

    key: str
    size: int
    users: set[str] = field(default_factory=set)


class Studio:
    """Turns requests into files."""

    def __init__(
        self, folder: Path, storage: Storage, jobs: Jobs, workers: Workers, settings: Settings
    ) -> None:
        self.folder = folder
        self.storage = storage
        self.jobs = jobs
        self.workers = workers
        self.settings = settings
        self.stub = settings.render == "stub"
        self.engine = settings.engine
        self._renders: dict[str, asyncio.Task[Output]] = {}
        self._kept: dict[Path, Kept] = {}

    async def film(self, job: Job, wanted: TalkingPhoto) -> Output:
        """The MP4 of a talking photo."""
        if self.stub:
            return self._publish(job, Output(STUB, STUB_SIZE, STUB_SIZE, self.settings.fps))
        async with self._input(wanted.image) as image, self._input(wanted.audio) as audio:
            spec = {
                "task": "video",
                "start": wanted.start,
                "end": wanted.end,
                "short": wanted.short,
                "long": wanted.long,
                "fps": self.settings.fps,
            }
            return self._publish(job, await self._once(job, spec, photo=image, audio=audio))

    async def speak(self, job: Job, wanted: Speech) -> Output:
        """The WAV of a text."""
        spec = {"task": "voice", "text": wanted.text, "voice": wanted.voice, "engine": self.engine}
        if self.stub:
            return self._publish(job, Output(STUB_VOICE, engine="stub"))
        return self._publish(job, await self._once(job, spec))

    def release(self, job: Job) -> None:
        """A job gave up its file: delete it with its last user."""
        path = self.storage.results.pop(f"{job.id}/{RESULT[job.kind]}", None)
        kept = self._kept.get(path) if path else None
        if path is None or kept is None:
            return
        kept.users.discard(job.id)
        if not kept.users:
            del self._kept[path]
            del self._renders[kept.key]
            discard(path)

    def _publish(self, job: Job, output: Output) -> Output:
        self.storage.results[f"{job.id}/{RESULT[job.kind]}"] = output.path
        if output.path in self._kept:
            self._kept[output.path].users.add(job.id)
            self._make_room(job)
        return output

    def _make_room(self, newest: Job) -> None:
        for job in list(self.jobs.all.values()):
            if sum(kept.size for kept in self._kept.values()) <= self.storage.limit:
                return
            if job is not newest and not job.active:
                self.jobs.drop(job)

    async def _once(self, job: Job, spec: dict[str, Any], **inputs: tuple[str | None, str]) -> Output:
        """Render, or join a render of the same that is under way or done."""
        contents = {name: digest for name, (_, digest) in inputs.items()}
        same = json.dumps([spec, contents], sort_keys=True)
        key = hashlib.sha256(same.encode()).hexdigest()
        spec = spec | {name: path for name, (path, _) in inputs.items()}
        task = self._renders.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._renders[key] = asyncio.create_task(self._make(key, job, spec))
        return await asyncio.shield(task)

    async def _make(self, key: str, job: Job, spec: dict[str, Any]) -> Output:
        suffix = Path(RESULT[job.kind]).suffix
        path = self.folder / f"{secrets.token_hex(12)}{suffix}"
        made = await self.workers.run(spec | {"out": str(path)})
        self._kept[path] = Kept(key, (await asyncio.to_thread(path.stat)).st_size)
        return Output(
            path,
            made.get("width", -1),
            made.get("height", -1),
            made.get("fps", 30.0),
            made.get("engine"),
        )

    @asynccontextmanager
    async def _input(self, asset: Asset) -> AsyncIterator[tuple[str | None, str]]:
        """An input as a local path and a digest of its content, for as long as it is needed."""
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
            # Only the vendor has the library; of ours there is what this emulator made itself.
            job = self.jobs.all.get(asset.where)
            own = job.output.path if job and job.kind == "audio" and job.output else None
            yield str(own) if own else None, own.stem if own else NO_FILE
        else:
            path = self.folder / f"fetched-{secrets.token_hex(8)}"
            try:
                yield str(path), await self._download(asset.where, path)
            finally:
                discard(path)

    async def _download(self, url: str, path: Path) -> str:
        if self.settings.fetch == "loopback" and not LOOPBACK.fullmatch(urlsplit(url).hostname or ""):
            raise RenderError(
                "invalid_file_format",
                "The file could not be fetched: this emulator asks only hosts on this machine"
                " (start it with --fetch any to change that)",
            )
        sha, size = hashlib.sha256(), 0
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
                        if size > self.storage.largest:
                            raise RenderError("file_too_large", "The file is too large")
                        sha.update(chunk)
                        await asyncio.to_thread(file.write, chunk)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise RenderError(
                "invalid_file_format", f"The file could not be fetched: {type(error).__name__}"
            ) from error
        return sha.hexdigest()
