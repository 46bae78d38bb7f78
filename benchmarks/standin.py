"""
A stand-in for the API that costs next to nothing: no framework, no state but a number of polls for each job.

It answers the few paths that are measured, over plain HTTP and TLS, in a process on a core of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import certifi
import trustme
import uvloop

from .harness import use_core

BLOCK = bytes(1 << 20)
FTYP_AND_MOOV = b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0\0\0\x08moov"
JOB = {
    "id": "job",
    "name": "Talking Photo",
    "status": "rendering",
    "type": "TALKING_PHOTO",
    "created_at": "2026-11-01T12:00:00.000Z",
    "width": 720,
    "height": 1280,
    "enabled": True,
    "start_seconds": 0,
    "end_seconds": 5,
    "fps": 30,
    "credits_charged": 240,
    "total_frame_cost": 240,
    "error": None,
    "download": None,
    "downloads": [],
}
BATCH = {
    "id": "job",
    "type": "message_batch",
    "processing_status": "in_progress",
    "request_counts": {"processing": 1, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
    "created_at": "2026-11-01T12:00:00.000Z",
    "expires_at": "2026-11-02T12:00:00.000Z",
    "ended_at": None,
    "archived_at": None,
    "cancel_initiated_at": None,
    "results_url": None,
}


@dataclass(frozen=True)
class Standin:
    """A stand-in that is running; ``ca`` is the file to trust it by (with the usual authorities in it)."""

    plain_url: str
    tls_url: str
    ca: str

    def url(self, *, tls: bool) -> str:
        return self.tls_url if tls else self.plain_url

    @property
    def trusted(self) -> dict[str, str]:
        """Environment variables for its peers."""
        return {"SSL_CERT_FILE": self.ca}


@contextmanager
def standin(*, latency: float = 0.0, polls: int = 0, size: int = 0) -> Iterator[Standin]:
    """
    :param latency: seconds before each answer.
    :param polls: a job is complete at this poll; 0 means never.
    :param size: bytes of the video.
    """
    command = [sys.executable, "-m", "benchmarks.standin"]
    command += [
        f"--{name}={value}" for name, value in {"latency": latency, "polls": polls, "size": size}.items()
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Standin(**json.loads(cast(str, process.stdout and process.stdout.readline())))
    finally:
        process.communicate()  # it ends with its stdin


def answer(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    """:param headers: more of them, each with its line's end."""
    head = (
        f"HTTP/1.1 {status}\r\n{headers}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


GOING = json.dumps(JOB).encode()


def with_id(job: bytes, job_id: bytes) -> bytes:
    return job.replace(b'"id": "job"', b'"id": "%s"' % job_id, 1)


class Api:
    """What all connections share."""

    def __init__(self, latency: float, polls: int, size: int) -> None:
        self.latency = latency
        self.size = size
        self._polls = polls
        self._all_polls = 0
        self._polled: Counter[bytes] = Counter()
        self._batch_going = answer(json.dumps(BATCH).encode())
        self._batch_ended = answer(json.dumps({**BATCH, "processing_status": "ended"}).encode())
        self._not_found = answer(b'{"message": "no such path"}', "404 Not Found")

    def respond(self, method: bytes, path: bytes, host: str) -> bytes:
        if path.startswith((b"/v1/video-projects/", b"/v1/messages/batches/", b"/not-yet/")):
            self._all_polls += 1
            ended = False
            if self._polls:
                self._polled[path] += 1
                ended = self._polled[path] >= self._polls
            if path.startswith(b"/v1/messages"):
                return self._batch_ended if ended else self._batch_going
            if path.startswith(b"/not-yet/") and not ended:
                return self._not_found
            job_id = path.rpartition(b"/")[2]
            return self._complete(host, job_id) if ended else answer(with_id(GOING, job_id))
        if path == b"/polls":
            return answer(str(self._all_polls).encode())
        if path == b"/v1/files/upload-urls":
            slot = {"upload_url": f"{host}/put", "expires_at": "", "file_path": "api-assets/1/2.png"}
            return answer(json.dumps({"items": [slot]}).encode())
        return answer(b"") if method == b"PUT" else self._not_found

    def _complete(self, host: str, job_id: bytes) -> bytes:
        download = {"url": f"{host}/video.mp4", "expires_at": "2026-11-02T12:00:00.000Z"}
        complete = {**JOB, "status": "complete", "download": download, "downloads": [download]}
        return answer(with_id(json.dumps(complete).encode(), job_id))


class Connection(asyncio.Protocol):
    """One request at a time, as every peer here sends them."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._received = b""
        self._body_left = 0
        self._video_left = 0
        self._paused = False
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        scheme = "https" if transport.get_extra_info("ssl_object") else "http"
        self._host = f"{scheme}://127.0.0.1:{transport.get_extra_info('sockname')[1]}"

    def data_received(self, data: bytes) -> None:
        if not self._body_left:
            self._received += data
            self._head, end, data = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self._received = b""
            _, named, length = self._head.lower().partition(b"content-length:")
            self._body_left = int(length.partition(b"\r\n")[0]) if named else 0
        self._body_left -= len(data)
        if not self._body_left:
            self._respond(*self._head.split(b" ", 2)[:2])

    def _respond(self, method: bytes, path: bytes) -> None:
        if path == b"/video.mp4":
            size = self._api.size
            mdat = b"\0\0\0\x01mdat" + (size - len(FTYP_AND_MOOV)).to_bytes(8, "big")
            self._video_left = size - len(FTYP_AND_MOOV + mdat)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {size}\r\n\r\n"
            self._transport.write(head.encode() + FTYP_AND_MOOV + mdat)
            self._send_video()
        elif self._api.latency:
            response = self._api.respond(method, path, self._host)
            asyncio.get_running_loop().call_later(self._api.latency, self._write, response)
        else:
            self._transport.write(self._api.respond(method, path, self._host))

    def _write(self, response: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(response)

    def _send_video(self) -> None:
        while self._video_left and not self._paused:
            block = BLOCK[: self._video_left]
            self._video_left -= len(block)
            self._transport.write(block)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send_video()


async def serve(api: Api) -> None:
    loop = asyncio.get_running_loop()
    usual = Path(certifi.where()).read_bytes()  # noqa: ASYNC240 - nobody is served yet
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    ports = []
    for context in (None, tls):
        server = await loop.create_server(lambda: Connection(api), "127.0.0.1", 0, ssl=context, backlog=8192)
        ports.append(server.sockets[0].getsockname()[1])
    with tempfile.NamedTemporaryFile("wb") as ca:
        ca.write(usual + authority.cert_pem.bytes())
        ca.flush()
        running = Standin(f"http://127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}", ca.name)
        print(json.dumps(vars(running)), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--polls", type=int, default=0)
    parser.add_argument("--size", type=int, default=0)
    use_core(1)
    uvloop.run(serve(Api(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
