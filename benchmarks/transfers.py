"""Upload and download of a large file: CPU and peak memory of the client's process."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .harness import Goal, Options, Sample, fresh, goal_table, interleaved
from .standin import standin
from .table import Table

CHUNK = 1 << 20
Transfer = Callable[[], object]


def ours(url: str, file: Path, up: bool) -> Transfer:
    """As the operator does it."""
    from magichour_provider.api.client import MagicHourClient, Settings

    client = MagicHourClient(Settings(api_key="key", base_url=url))
    source, target = checked(file, up)
    return lambda: client.upload([source]) if up else client.download("job", target)


def checked(file: Path, up: bool) -> tuple[Any, Any]:
    """Source or target, after the first look at a file, for which Airflow imports its file systems."""
    from magichour_provider.files.storage import Source, Target

    if up:
        return Source.find("image_file_path", "image", str(file)), None
    target = Target(str(file))
    target.check()
    return None, target


def sdk(url: str, file: Path, up: bool) -> Transfer:
    from magic_hour import Client

    client = Client(base_url=url, token="key")  # noqa: S106
    if up:
        return lambda: client.v1.files.upload_file(file)
    return lambda: client.v1.video_projects.check_result(
        "job", wait_for_completion=True, download_outputs=True, download_directory=str(file.parent)
    )


def plain_aiohttp(url: str, file: Path, up: bool) -> Transfer:
    import aiohttp

    async def transfer() -> None:
        async with aiohttp.ClientSession(url) as session:
            if up:
                with file.open("rb") as source:
                    await session.put("/put", data=source)
                return
            async with session.get("/video.mp4") as response:
                with file.open("wb") as target:
                    async for chunk in response.content.iter_chunked(CHUNK):
                        target.write(chunk)

    return lambda: asyncio.run(transfer())


def curl(url: str, file: Path, up: bool) -> Transfer:
    where = ["-H", "Expect:", "-T", str(file), f"{url}/put"] if up else ["-o", str(file), f"{url}/video.mp4"]
    return lambda: subprocess.Popen(["curl", "--silent", "--fail", *where])  # noqa: S607


def raw(url: str, file: Path, up: bool) -> Transfer:
    where = urlsplit(url)
    buffer = memoryview(bytearray(CHUNK))

    def transfer() -> None:
        with socket.create_connection((str(where.hostname), int(where.port or 80))) as peer:
            if up:
                size = file.stat().st_size
                peer.sendall(f"PUT /put HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
                with file.open("rb", buffering=0) as source:
                    while read := source.readinto(buffer):
                        peer.sendall(buffer[:read])
                peer.recv_into(buffer)
                return
            peer.sendall(b"GET /video.mp4 HTTP/1.1\r\nHost: x\r\n\r\n")
            with file.open("wb", buffering=0) as target:
                read = peer.recv_into(buffer)
                head, _, body = bytes(buffer[:read]).partition(b"\r\n\r\n")
                left = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]) - len(body)
                target.write(body)
                while left:
                    read = peer.recv_into(buffer)
                    target.write(buffer[:read])
                    left -= read

    return transfer


US, SDK, RAW = "this provider", "Magic Hour SDK", "raw socket"
PEERS: dict[str, Callable[[str, Path, bool], Transfer]] = {
    US: ours,
    SDK: sdk,
    "curl": curl,
    "aiohttp": plain_aiohttp,
    RAW: raw,
}
DIRECTIONS = {"upload": True, "download": False}
# Files are kept in memory where that is possible: a disk is slower than what is measured, and not steady.
IN_MEMORY = Path("/dev/shm")  # noqa: S108


def run(options: Options) -> list[Table]:
    size = (1 << 26) if options.quick else (1 << 30)
    with standin(looks=1, size=size) as server, large_file(size) as file:
        cases = {
            (peer, direction): partial(
                fresh, measure, peer=peer, url=server.plain_url, up=up, source=str(file), size=size
            )
            for (direction, up), peer in product(DIRECTIONS.items(), PEERS)
        }
        found = interleaved(cases, rounds=1 if options.quick else 3)
    rows = []
    for peer in PEERS:
        cpu = [found[peer, way]["cpu"].beside(found[US, way]["cpu"], 2) for way in DIRECTIONS]
        rows.append((peer, *cpu, *(found[peer, way]["megabytes"].show() for way in DIRECTIONS)))
    columns = ["", *(f"{direction}, CPU s" for direction in DIRECTIONS)]
    columns += [f"{direction}, peak MB" for direction in DIRECTIONS]
    return [Table(f"{size >> 20:,} MiB over loopback", columns, rows), goals(found)]


def goals(found: dict[tuple[str, str], dict[str, Sample]]) -> Table:
    asked = []
    for direction in DIRECTIONS:
        cpu = found[US, direction]["cpu"]
        of_raw = 1.2 if direction == "upload" else 2.2
        asked += [
            Goal(f"{direction}: CPU × the SDK's", 0.5, cpu.over(found[SDK, direction]["cpu"])),
            Goal(f"{direction}: CPU × a raw socket's", of_raw, cpu.over(found[RAW, direction]["cpu"])),
            Goal(f"{direction}: peak MB", 8, found[US, direction]["megabytes"], digits=1),
        ]
    return goal_table(asked)


@contextmanager
def large_file(size: int) -> Iterator[Path]:
    with scratch() as folder:
        file = folder / "photo.png"
        with file.open("wb") as made:
            made.truncate(size)
        yield file


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def measure(peer: str, url: str, up: bool, source: str, size: int) -> dict[str, float]:
    """:returns: ``cpu`` in seconds, and the peak of memory in ``megabytes`` above what it was before."""
    with scratch() as folder:
        target = folder / "video.mp4"
        transfer = PEERS[peer](url, Path(source) if up else target, up)
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak begins anew
        before, cpu = peak_megabytes(), cpu_seconds()
        running = transfer()
        peak = watch(running) if isinstance(running, subprocess.Popen) else peak_megabytes() - before
        used = cpu_seconds() - cpu
        if not up and target.stat().st_size != size:
            raise AssertionError(f"{target.stat().st_size} of {size} bytes came")
    return {"cpu": used, "megabytes": peak}


def watch(process: subprocess.Popen[Any]) -> float:
    """The peak of another process, in MB, seen while it runs."""
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, peak_megabytes(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise AssertionError(f"{process.args} failed")
    return peak


def peak_megabytes(process: int | str = "self") -> float:
    try:
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text("ascii"))
    except FileNotFoundError:
        found = None
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds() -> float:
    """Of this process and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
