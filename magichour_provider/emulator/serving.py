"""An emulator on a socket, for as long as it is wanted: for the handle and the command line."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[World]:
    """Listen; end cleanly, and leave nothing on the disk."""
    folder = await asyncio.to_thread(make_folder)
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
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="magichour-emulator-"))
    for part in ("uploads", "renders"):
        (folder / part).mkdir()
    return folder
