"""HTTP clients and requests for the tests of the emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from pathlib import Path

    from magichour_provider.emulator import Emulator


def connect(emulator: Emulator) -> httpx.Client:
    """Create a client with the emulator's key. It loads no certificates, because that is slow."""
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    return httpx.Client(base_url=emulator.url, headers=headers, verify=False, timeout=30)


def talking_photo(
    emulator: Emulator, photo: Path | bytes = b"photo", voice: Path | bytes = b"voice", **changes: Any
) -> dict[str, Any]:
    """Upload a photo and a voice. Return a request for a talking photo that is accepted."""
    assets = {
        "image_file_path": emulator.put_asset(photo, "png"),
        "audio_file_path": emulator.put_asset(voice, "wav"),
    }
    return {"name": "test", "start_seconds": 0, "end_seconds": 1, "assets": assets} | changes


def ended(http: httpx.Client, path: str) -> dict[str, Any]:
    """Poll a job until it has ended. On a busy machine, a render can take longer than one poll waits."""
    while True:
        job: dict[str, Any] = http.get(path).json()
        if job["status"] not in ("queued", "rendering"):
            return job
