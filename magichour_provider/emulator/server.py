"""The server: it runs an emulator on a socket, for the handle and the command line."""

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

# When the server stops, it waits at most this long for active requests.
SHUTDOWN_SECONDS = 0.2
BACKLOG = 1024
FOLDER_PREFIX = "magichour-emulator-"
LOCK = "in-use"
# A newer folder may belong to an emulator that has not yet locked it.
MIN_AGE_SECONDS = 60


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[Emulation]:
    """Run an emulator. At the end, stop it and delete its files."""
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
        url_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - a comparison
        emulation.base_url = f"http://[{url_host}]:{port}" if ":" in url_host else f"http://{url_host}:{port}"
        yield emulation
    finally:
        await runner.cleanup()
        await emulation.close()
        await asyncio.to_thread(remove_folder, folder, lock)


def make_folder() -> tuple[Path, IO[bytes]]:
    """Create the folder of an emulator. Return it, and the lock that shows that it is in use."""
    delete_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    for name in ("uploads", "renders"):
        (folder / name).mkdir()
    lock = (folder / LOCK).open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return folder, lock


def delete_abandoned(parent: Path) -> None:
    """Delete the folders of emulators that were killed. Their locks ended with their processes."""
    for path in parent.glob(f"{FOLDER_PREFIX}*/{LOCK}"):
        try:
            if time.time() - path.stat().st_mtime < MIN_AGE_SECONDS:
                continue
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            # The folder is in use, belongs to another user, or was deleted by another emulator.
            continue


def remove_folder(folder: Path, lock: IO[bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
