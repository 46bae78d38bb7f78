"""
A pool of render processes. They start when they are needed, and end after some idle time.

They are plain subprocesses, because the processes of a ``ProcessPoolExecutor`` would run the main module of
the user's script again.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from .exceptions import RenderError

IDLE_SECONDS = 30.0
MAX_RENDER_SECONDS = 900.0
PACKAGE_ROOT = Path(__file__).parents[2]


class WorkerPool:
    """A pool of at most ``limit`` processes. Each of them renders one file at a time."""

    def __init__(self, limit: int) -> None:
        self._slots = asyncio.Semaphore(limit)
        self._idle: list[asyncio.subprocess.Process] = []
        self._starts: set[asyncio.Task[asyncio.subprocess.Process]] = set()
        self._killed: weakref.WeakSet[asyncio.subprocess.Process] = weakref.WeakSet()
        self._closed = False
        self._idle_timer: asyncio.TimerHandle | None = None

    async def run(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Render one file.

        :raises RenderError: with the vendor's code.
        """
        async with self._slots:
            if self._closed:
                raise RenderError("unknown_error", "The emulator is stopping")
            if self._idle_timer:
                self._idle_timer.cancel()
            worker = self._idle.pop() if self._idle else await self._start()
            try:
                reply = await asyncio.wait_for(request_render(worker, spec), MAX_RENDER_SECONDS)
            except TimeoutError:
                self._kill(worker)
                raise RenderError("processing_timeout", "The render took too long") from None
            except (OSError, ValueError):
                self._kill(worker)
                raise RenderError("unknown_error", "The renderer crashed") from None
            except asyncio.CancelledError:
                self._kill(worker)
                raise
            self._idle.append(worker)
            self._idle_timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._kill_idle)
        if "error" in reply:
            raise RenderError(reply["error"], reply["message"])
        return reply

    async def close(self) -> None:
        """Kill all workers, including busy and starting ones. After this, no worker starts."""
        self._closed = True
        if self._idle_timer:
            self._idle_timer.cancel()
        for worker in await asyncio.gather(*self._starts, return_exceptions=True):
            if isinstance(worker, asyncio.subprocess.Process):
                self._kill(worker)
                await worker.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        paths = [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
        starting = asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "magichour_provider.emulator.render_worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._starts = {start for start in self._starts if not has_ended(start)}
        start = asyncio.create_task(starting)
        self._starts.add(start)
        # If a start is cancelled, asyncio may wait for the process forever. So shield the start.
        return await asyncio.shield(start)

    def _kill(self, worker: asyncio.subprocess.Process) -> None:
        # Kill a worker only once: a second signal could reap the process before the event loop does.
        if worker in self._killed:
            return
        self._killed.add(worker)
        with suppress(ProcessLookupError):
            worker.kill()

    def _kill_idle(self) -> None:
        while self._idle:
            self._kill(self._idle.pop())


def has_ended(start: asyncio.Task[asyncio.subprocess.Process]) -> bool:
    """Whether the worker of this start has ended, or has failed to start."""
    return start.done() and (start.exception() is not None or start.result().returncode is not None)


async def request_render(worker: asyncio.subprocess.Process, spec: dict[str, Any]) -> dict[str, Any]:
    """Send one line of JSON, and read one.

    :raises ValueError: the worker ended before it replied.
    """
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(json.dumps(spec).encode() + b"\n")
    await worker.stdin.drain()
    reply: dict[str, Any] = json.loads(await worker.stdout.readline())
    return reply
