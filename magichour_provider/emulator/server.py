"""Runs an emulator on a socket, for the handle and the command line."""

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

from . import validation
from .app import make_app
from .emulation import Emulation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .settings import Settings

# When the server stops, requests in progress have this time to end.
SHUTDOWN_SECONDS = 0.2
BACKLOG = 1024
PREFIX = "magichour-emulator-"
LOCK = "in-use"
# A younger folder without a lock belongs to an emulator that is just starting.
MIN_AGE_SECONDS = 60


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[Emulation]:
    """Listen. At the end, stop everything and delete all files."""
    folder, lock = await asyncio.to_thread(make_folder)
    await asyncio.to_thread(validation.voices)
    emulation = Emulation(settings, folder)
    runner = web.AppRunner(
        make_app(emulation), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS, handle_signals=False
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, settings.host, settings.port, backlog=BACKLOG)
        await site.start()
        host, port = runner.addresses[0][:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - a comparison
        emulation.base_url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
        yield emulation
    finally:
        await runner.cleanup()
        await emulation.close()
        await asyncio.to_thread(remove_folder, folder, lock)


def make_folder() -> tuple[Path, IO[bytes]]:
    """Make the folder of one emulator; return it and the lock that shows that it is in use."""
    delete_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    for name in ("uploads", "renders"):
        (folder / name).mkdir()
    lock = (folder / LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def delete_abandoned(parent: Path) -> None:
    """Delete the folders of emulators that were killed: a lock ends with its process."""
    for path in parent.glob(f"{PREFIX}*/{LOCK}"):
        try:
            if time.time() - path.stat().st_mtime < MIN_AGE_SECONDS:
                continue
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            # In use, or another user's, or just deleted by another emulator.
            continue


def remove_folder(folder: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
