"""Wait for the end of a job."""

from __future__ import annotations

from typing import Any

import httpx


def ended(http: httpx.Client, path: str) -> dict[str, Any]:
    """Poll until a job has ended: on a busy machine a render outlasts the patience of one poll."""
    while True:
        job: dict[str, Any] = http.get(path, timeout=30).json()
        if job["status"] not in ("queued", "rendering"):
            return job
