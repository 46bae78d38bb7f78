"""
The handle that tests use: it starts an emulator in a thread, or attaches to one that runs elsewhere.

Everything goes through the emulator's admin routes, so curl can do what a test can. Only the standard library
is imported until a server is started.
"""

from __future__ import annotations

import asyncio
import atexit
import http.client
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack
from urllib.parse import urlencode, urlsplit

from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

START_SECONDS = 30
ADMIN_SECONDS = 900


class FaultOptions(TypedDict, total=False):
    """The options of :meth:`Emulator.fault`."""

    status: int | None
    body: Any
    headers: dict[str, str]
    html: bool
    effect: bool
    reset: Literal["before", "after"] | None
    hang: float | None
    slow: float | None
    truncate: int | None
    cut: int | None
    gzip: bool
    endless: bool
    ends: str | None
    job_id: str | int | None
    times: int | None
    skip: int
    name: str | None


class Emulator:
    """
    Magic Hour on this machine.

    ``with Emulator() as emulator:`` runs the server in a thread of this process. The arguments are those of
    :class:`~magichour_provider.emulator.settings.Settings`.

    .. versionadded:: 0.1.0

    :param progression: when jobs change their status: ``instant``, ``polls:N``, ``seconds:N``, ``manual``,
        ``realistic`` or ``realistic:N``.
    :param render: ``real`` renders the MP4; ``stub`` answers with a tiny ready-made one.
    :param poll_interval: seconds; goes into :attr:`connection`.
    """

    def __init__(self, *, poll_interval: float = 0.1, **settings: Any) -> None:
        # "moves" and "looks:N" are the names that "progression" and "polls:N" had in early versions.
        if "moves" in settings:
            settings["progression"] = settings.pop("moves").replace("looks:", "polls:")
        self.poll_interval = poll_interval
        self._settings = settings
        self._state: dict[str, Any] = {}
        self._url = ""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @classmethod
    def attach(cls, url: str, *, poll_interval: float = 0.1) -> Self:
        """A handle on an emulator that already runs, here or in another process."""
        handle = cls(poll_interval=poll_interval)
        handle._attach(url)
        return handle

    def start(self) -> Self:
        """
        Start the server; ``with`` does this too.

        :raises ValueError: a setting cannot be used.
        :raises ModuleNotFoundError: a codec is not installed; names the extra.
        :raises OSError: the port cannot be used.
        """
        settings = Settings(**self._settings)
        from .server import serve  # it loads aiohttp

        ready = threading.Event()
        failed: list[BaseException] = []

        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with serve(settings) as emulation:
                self._url = emulation.base_url
                ready.set()
                await self._stop.wait()

        def thread() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
                failed.append(error)
                ready.set()

        self._pid = os.getpid()
        self._thread = threading.Thread(target=thread, name="magichour-emulator", daemon=True)
        self._thread.start()
        if not ready.wait(START_SECONDS):
            raise RuntimeError(f"the emulator did not start within {START_SECONDS} seconds")
        if failed:
            raise failed[0]
        self._attach(self._url)
        # A script that ends without stop() leaves no files behind.
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Stop the server and delete its files. In a forked child this does nothing."""
        if self._thread and self._loop and self._stop and self._pid == os.getpid():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            atexit.unregister(self.stop)
        self._thread, self._url = None, ""

    def __enter__(self) -> Self:
        return self if self._url else self.start()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its base URL, without a slash at the end."""
        if not self._url:
            raise RuntimeError("the emulator is not running: use it in a with statement, or start()")
        return self._url

    @property
    def api_key(self) -> str:
        """The only API key that it accepts."""
        return str(self._state["api_key"])

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to it, as the fields of its JSON form."""
        return {
            "conn_type": "magichour",
            "host": self.url,
            "password": self.api_key,
            "extra": {"poll_interval": self.poll_interval},
        }

    @property
    def connection_json(self) -> str:
        """The connection as JSON, for ``AIRFLOW_CONN_MAGICHOUR_DEFAULT``."""
        return json.dumps(self.connection)

    @property
    def credits(self) -> int:
        """Credits left; can be set."""
        return int(self._call_admin("GET", "state")["credits"])

    @credits.setter  # noqa: A003 - the property above, not the builtin
    def credits(self, amount: int) -> None:
        self._call_admin("PATCH", "state", {"credits": amount})

    @property
    def progression(self) -> str:
        """When jobs change their status; can be set, also for the jobs in progress."""
        return str(self._call_admin("GET", "state")["progression"])

    @progression.setter
    def progression(self, progression: str) -> None:
        self._call_admin("PATCH", "state", {"progression": progression})

    def state(self) -> dict[str, Any]:
        """Its settings, credits and clock, and the number of requests by call."""
        return dict(self._call_admin("GET", "state"))

    def charges(self, name: str | None = None) -> int:
        """The number of charges, for all jobs or for those whose name contains ``name``."""
        return sum(entry["entry_type"] == "charge" for entry in self.ledger(name))

    def ledger(self, name: str | None = None) -> list[dict[str, Any]]:
        """Every change of the credits, oldest first: entry_type, job_id, job_type, name, credits, at."""
        return list(self._call_admin("GET", "ledger", query={"name": name}))

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        """The jobs, oldest first: the details, and job_type, request, polls, ends, rendered, engine."""
        return list(self._call_admin("GET", "jobs", query={"name": name}))

    def job(self, job_id: str) -> dict[str, Any]:
        """One job."""
        return dict(self._call_admin("GET", f"jobs/{job_id}"))

    def requests(self, call: str | None = None) -> list[dict[str, Any]]:
        """The last 10 000 requests: call, method, path, query, headers, json, status, bytes."""
        return list(self._call_admin("GET", "requests", query={"call": call}))

    def fault(self, call: str, **rule: Unpack[FaultOptions]) -> Fault:
        """
        Make a call fail, or answer differently.

        :param call: ``create``, ``get_video``, ``delete_video``, ``upload_urls``, ``put``, ``download``,
            ``account``, ``create_voice``, ``get_audio``, ``delete_audio``, ``create_tool``, ``get_image``,
            ``delete_image`` or ``*``.
        :param status: answer with this status instead of having an effect.
        :param body: answer with this text or JSON. In it, ``{"$answer": "/downloads/0"}`` stands for the part
            of the true answer at that JSON pointer; the call then has its effect.
        :param html: answer with a gateway's page.
        :param headers: add these headers; ``{path}`` in a value stands for the request's path and query.
        :param reset: reset the connection ``before`` or ``after`` the effect.
        :param hang: wait so many seconds; then have the effect, if the client is still connected.
        :param slow: send the body over so many seconds.
        :param truncate: send only so many bytes of the body, and announce no more.
        :param cut: announce the whole body, send so many bytes of it, and close the connection.
        :param gzip: compress the body, as ``Content-Encoding`` then says.
        :param endless: after the body, send spaces until the client closes the connection.
        :param effect: have the effect first; only the answer is changed.
        :param ends: how the created job ends: ``error:<code>``, ``canceled`` or ``deleted``.
        :param job_id: the id of the created job: a text, or a number that answers show as a number.
        :param times: how often the fault applies; ``None``: always.
        :param skip: how many requests pass before that.
        :param name: only for jobs whose name contains this; for ``put``, uploads whose path contains it.
        """
        return Fault(self, self._call_admin("POST", "faults", {"call": call, **rule})["id"])

    def faults(self) -> list[dict[str, Any]]:
        """The faults, with the number of requests that matched (seen) and that were changed (hits)."""
        return list(self._call_admin("GET", "faults"))

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._call_admin("DELETE", "faults")

    def advance(self, seconds: float) -> None:
        """Set the clock forward. The jobs that are due by then have ended when this returns."""
        self._call_admin("POST", "advance", {"seconds": seconds})

    def move(self, job_id: str, to: str) -> None:
        """Move a job to ``rendering`` or ``complete``; waits for its file."""
        self._call_admin("POST", f"jobs/{job_id}/move", {"to": to})

    def fail(self, job_id: str, code: str, message: str = "") -> None:
        """End a job in ``error``, with a refund."""
        self._call_admin("POST", f"jobs/{job_id}/fail", {"code": code, "message": message})

    def cancel(self, job_id: str) -> None:
        """Cancel a job, as a person can in the vendor's web app, with a refund."""
        self._call_admin("POST", f"jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Delete a job's file, as a person can in the vendor's web app."""
        self._call_admin("POST", f"jobs/{job_id}/delete")

    def put_asset(self, content: str | os.PathLike[str] | bytes, extension: str) -> str:
        """Upload a file without a signed URL; returns its ``api-assets/…`` path."""
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        return str(self._call_admin("POST", "assets", data, {"extension": extension})["file_path"])

    def webhook(self, url: str, secret: str, events: list[str] | None = None) -> None:
        """Register a webhook, as a person can in the vendor's web app."""
        self._call_admin("POST", "webhooks", {"url": url, "secret": secret, "events": events or []})

    def deliveries(self) -> list[dict[str, Any]]:
        """The events: url, type, job_id, attempts, delivered, given_up."""
        return list(self._call_admin("GET", "webhooks/deliveries"))

    def _attach(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._state = self._call_admin("GET", "state")

    def _call_admin(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str | None] | None = None,
    ) -> Any:
        address = urlsplit(self.url)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        secure = address.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(address.netloc, timeout=ADMIN_SECONDS)
        try:
            connection.request(method, f"/_emulator/{path}?{urlencode(given)}", data)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            try:
                problem = json.loads(content)["message"]
            except (ValueError, KeyError):
                problem = f"HTTP {answer.status}"
            raise ValueError(problem)
        return json.loads(content) if content else None


class Fault:
    """A fault that was added to an emulator."""

    def __init__(self, emulator: Emulator, rule_id: str) -> None:
        self._emulator = emulator
        self.id = rule_id

    @property
    def hits(self) -> int:
        """How many requests it has changed."""
        return int(self._emulator._call_admin("GET", f"faults/{self.id}")["hits"])

    def remove(self) -> None:
        """Remove this fault."""
        self._emulator._call_admin("DELETE", f"faults/{self.id}")
