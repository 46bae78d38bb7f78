"""
A stand-in for the API whose jobs end at a time: the job's id says when, so nothing has to be created.

``/v1/video-projects/ID`` answers as Magic Hour does; ``/ended/ID`` is 404 until the job has ended, which is
what Airflow's HTTP sensor waits for. All polls are noted; ``/noted`` tells them, and forgets them.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import asdict, dataclass
from typing import TypedDict

import uvloop

from .standin import GOING, JOB, Connection, answer, with_id


def job_id(number: int, ends_at: float) -> str:
    """:param ends_at: seconds since the epoch."""
    return f"job{number}-{ends_at:.3f}"


class Noted(TypedDict):
    """What was seen of one job; times in seconds since the epoch."""

    ends_at: float
    polls: int
    previous: float | None
    found: float | None


@dataclass
class Polls:
    """
    :param found: when it was first polled after it had ended.
    :param previous: when it had been polled before that.
    """

    ends_at: float
    polls: int = 0
    last: float | None = None
    previous: float | None = None
    found: float | None = None

    def poll(self, now: float) -> bool:
        self.polls += 1
        if now >= self.ends_at and self.found is None:
            self.found, self.previous = now, self.last
        self.last = now
        return now >= self.ends_at


class Api:
    """For ``standin.Connection``."""

    latency = 0.0
    size = 0

    def __init__(self) -> None:
        self._jobs: dict[bytes, Polls] = {}
        download = {"url": "http://127.0.0.1/video.mp4", "expires_at": "2099-11-02T12:00:00.000Z"}
        self._ended = json.dumps(
            {**JOB, "status": "complete", "download": download, "downloads": [download]}
        ).encode()
        self._not_yet = answer(b"{}", "404 Not Found")

    def respond(self, _method: bytes, path: bytes, _host: str) -> bytes:
        if path == b"/noted":
            noted = {key.decode(): asdict(job) for key, job in self._jobs.items()}
            self._jobs = {}
            return answer(json.dumps(noted).encode())
        key = path.rpartition(b"/")[2]
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = Polls(float(key.partition(b"-")[2]))
        if job.poll(time.time()):
            return answer(with_id(self._ended, key))
        return self._not_yet if path.startswith(b"/ended/") else answer(with_id(GOING, key))


async def serve() -> None:
    loop = asyncio.get_running_loop()
    api = Api()
    server = await loop.create_server(lambda: Connection(api), "127.0.0.1", 0, backlog=8192)  # type: ignore[arg-type]
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
