"""An emulator on a socket, for as long as it is wanted: for the handle and the command line."""

from __future__ import annotations

import asyncio
import fcntl
import shutil
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from aiohttp import web

from . import rules
from .app import make_app
from .world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .settings import Settings

# How long requests that hang get to end by themselves when the server stops.
FAREWELL_SECONDS = 0.2
BACKLOG = 1024
PREFIX = "magichour-emulator-"
LOCK = "in-use"
# So long a folder may be without its lock being held: its emulator is just starting.
NEWBORN_SECONDS = 60


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[World]:
    """Listen; end cleanly, and leave nothing on the disk."""
    folder, lock = await asyncio.to_thread(make_folder)
    await asyncio.to_thread(rules.voices)
    world = World(settings, folder)
    runner = web.AppRunner(
        make_app(world), access_log=None, shutdown_timeout=FAREWELL_SECONDS, handle_signals=False
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
        await site.start()
        host, port = runner.addresses[0][:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - a comparison
        world.base = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
        yield world
    finally:
        await runner.cleanup()
        await world.close()
        await asyncio.to_thread(remove_folder, folder, lock)


def make_folder() -> tuple[Path, IO[bytes]]:
    """A folder for one emulator, and the lock that says it is in use."""
    sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    for part in ("uploads", "renders"):
        (folder / part).mkdir()
    lock = (folder / LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def sweep(place: Path) -> None:
    """Delete the folders of emulators that were killed: the lock of those went with them."""
    for path in place.glob(f"{PREFIX}*/{LOCK}"):
        try:
            if time.time() - path.stat().st_mtime < NEWBORN_SECONDS:
                continue
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            # In use, or another user's, or gone a moment ago.
            continue


def remove_folder(folder: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
