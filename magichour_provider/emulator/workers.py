"""
Render worker processes: started when there is work, gone when there has been none for a while.

A subprocess of its own rather than a process pool: a pool would run the caller's main module again,
which for a user's script or notebook is a surprise.
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

from .state import RenderError

IDLE_SECONDS = 30.0
LONGEST_RENDER_SECONDS = 900.0
PACKAGE_ROOT = Path(__file__).parents[2]


class Workers:
    """At most ``limit`` processes, each on one file at a time."""

    def __init__(self, limit: int) -> None:
        self._turns = asyncio.Semaphore(limit)
        self._idle: list[asyncio.subprocess.Process] = []
        self._starts: set[asyncio.Task[asyncio.subprocess.Process]] = set()
        self._ended: weakref.WeakSet[asyncio.subprocess.Process] = weakref.WeakSet()
        self._closed = False
        self._retire: asyncio.TimerHandle | None = None

    async def run(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Have one file made.

        :raises RenderError: with the vendor's code for what went wrong.
        """
        async with self._turns:
            if self._closed:
                raise RenderError("unknown_error", "The emulator is being stopped")
            if self._retire:
                self._retire.cancel()
            worker = self._idle.pop() if self._idle else await self._start()
            try:
                answer = await asyncio.wait_for(ask(worker, spec), LONGEST_RENDER_SECONDS)
            except TimeoutError:
                self._end(worker)
                raise RenderError("processing_timeout", "The render took too long") from None
            except (OSError, ValueError):
                self._end(worker)
                raise RenderError("unknown_error", "The renderer crashed") from None
            except asyncio.CancelledError:
                self._end(worker)
                raise
            self._idle.append(worker)
            self._retire = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._end_idle)
        if "failed" in answer:
            raise RenderError(answer["failed"], answer["message"])
        return answer

    async def close(self) -> None:
        """End every worker, busy or not, also one that is just starting; no other starts."""
        self._closed = True
        if self._retire:
            self._retire.cancel()
        for worker in await asyncio.gather(*self._starts, return_exceptions=True):
            if isinstance(worker, asyncio.subprocess.Process):
                self._end(worker)
                await worker.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        paths = [str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
        starting = asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "magichour_provider.emulator.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._starts = {start for start in self._starts if not gone(start)}
        start = asyncio.create_task(starting)
        self._starts.add(start)
        # Shielded: asyncio may wait for ever for a process whose start was cancelled halfway.
        return await asyncio.shield(start)

    def _end(self, worker: asyncio.subprocess.Process) -> None:
        # Once only: a second signal may reap the process behind the event loop's back.
        if worker in self._ended:
            return
        self._ended.add(worker)
        with suppress(ProcessLookupError):
            worker.kill()

    def _end_idle(self) -> None:
        while self._idle:
            self._end(self._idle.pop())


def gone(start: asyncio.Task[asyncio.subprocess.Process]) -> bool:
    """Whether that worker does not run any more, or never did."""
    return start.done() and (start.exception() is not None or start.result().returncode is not None)


async def ask(worker: asyncio.subprocess.Process, spec: dict[str, Any]) -> dict[str, Any]:
    assert worker.stdin
    assert worker.stdout
    worker.stdin.write(json.dumps(spec).encode() + b"\n")
    await worker.stdin.drain()
    answer: dict[str, Any] = json.loads(await worker.stdout.readline())
    return answer
