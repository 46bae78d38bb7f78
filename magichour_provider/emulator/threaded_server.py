"""
The handle for tests: it starts an emulator in a thread, or attaches to a running one.

The handle uses only the admin routes, so other programs can do the same. This module imports only the
standard library until a server starts.
"""

from __future__ import annotations

import asyncio
import atexit
import http.client
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack
from urllib.parse import urlencode, urlsplit

from .settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from .faults import FaultOptions

START_TIMEOUT_SECONDS = 30
ADMIN_TIMEOUT_SECONDS = 900


class Emulator:
    """
    A handle for an emulator.

    ``with Emulator() as emulator:`` runs a server in a thread of this process. The arguments are the fields
    of :class:`~magichour_provider.emulator.settings.Settings`.

    .. versionadded:: 0.1.0

    :param progression: when jobs change their status: ``instant``, ``polls:N``, ``seconds:N``, ``manual``,
        ``realistic`` or ``realistic:N``.
    :param render: ``real`` renders the files of a job; ``stub`` uses small ready-made files.
    :param poll_interval: seconds between two polls, for :attr:`connection`.
    """

    def __init__(self, *, poll_interval: float = 0.1, **settings: Any) -> None:
        # Kept for callers that use the names of an early version: Emulator(moves="looks:3").
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
        """Return a handle for an emulator that already runs, in this or another process."""
        handle = cls(poll_interval=poll_interval)
        handle._attach(url)
        return handle

    def start(self) -> Self:
        """
        Start the server. ``with`` does this too.

        :raises ValueError: a setting is not valid.
        :raises ModuleNotFoundError: a codec is not installed. The message names the extra to install.
        :raises OSError: the server cannot listen on the port.
        """
        settings = Settings(**self._settings)
        from .server import serve  # it loads aiohttp

        ready = threading.Event()
        errors: list[BaseException] = []

        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with serve(settings) as emulation:
                self._url = emulation.base_url
                ready.set()
                await self._stop.wait()

        def thread() -> None:
            try:
                asyncio.run(run())
            except BaseException as error:  # noqa: BLE001 - start() raises it in the caller's thread
                errors.append(error)
                ready.set()

        self._pid = os.getpid()
        self._thread = threading.Thread(target=thread, name="magichour-emulator", daemon=True)
        self._thread.start()
        if not ready.wait(START_TIMEOUT_SECONDS):
            raise RuntimeError(f"the emulator did not start within {START_TIMEOUT_SECONDS} seconds")
        if errors:
            raise errors[0]
        self._attach(self._url)
        # Delete the files even if a script ends without stop().
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Stop the server, and delete its files. In a forked process, this does nothing."""
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
        """The base URL, without a slash at the end."""
        if not self._url:
            raise RuntimeError("the emulator is not running: use a with statement, or call start()")
        return self._url

    @property
    def api_key(self) -> str:
        """The only API key that the emulator accepts."""
        return str(self._state["api_key"])

    @property
    def connection(self) -> dict[str, Any]:
        """The fields of an Airflow connection to the emulator."""
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
        """The remaining credits. You can set them."""
        return int(self._call_admin("GET", "state")["credits"])

    @credits.setter  # noqa: A003 - the property above, not the builtin
    def credits(self, amount: int) -> None:
        self._call_admin("PATCH", "state", {"credits": amount})

    @property
    def progression(self) -> str:
        """When jobs change their status. You can set it, and it then applies to active jobs too."""
        return str(self._call_admin("GET", "state")["progression"])

    @progression.setter
    def progression(self, progression: str) -> None:
        self._call_admin("PATCH", "state", {"progression": progression})

    def state(self) -> dict[str, Any]:
        """Return the settings, the credits, the clock, and the number of requests by call."""
        return dict(self._call_admin("GET", "state"))

    def charges(self, name: str | None = None) -> int:
        """Count the charges, for all jobs or for those whose name contains ``name``."""
        return sum(entry["entry_type"] == "charge" for entry in self.ledger(name))

    def ledger(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the changes of credits, oldest first: entry_type, job_id, job_type, name, credits, at."""
        return list(self._call_admin("GET", "ledger", query={"name": name}))

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        """
        Return the jobs, oldest first.

        Each has the fields of the API, and job_type, request, polls, ends, rendered and engine.
        """
        return list(self._call_admin("GET", "jobs", query={"name": name}))

    def job(self, job_id: str) -> dict[str, Any]:
        """Return one job."""
        return dict(self._call_admin("GET", f"jobs/{job_id}"))

    def requests(self, call: str | None = None) -> list[dict[str, Any]]:
        """Return the last 10 000 requests: call, method, path, query, headers, json, status, bytes."""
        return list(self._call_admin("GET", "requests", query={"call": call}))

    def fault(self, call: str, **rule: Unpack[FaultOptions]) -> Fault:
        """
        Make a call fail, or change its response.

        :param call: ``create``, ``get_video``, ``delete_video``, ``upload_urls``, ``put``, ``download``,
            ``account``, ``create_voice``, ``get_audio``, ``delete_audio``, ``create_tool``, ``get_image``,
            ``delete_image`` or ``*``.
        :param status: respond with this status, and do not execute the call.
        :param body: respond with this text or JSON, and do not execute the call. In JSON,
            ``{"$answer": "/downloads/0"}`` stands for the part of the true response at that JSON pointer; the
            call is then executed.
        :param html: respond with a gateway's page, and do not execute the call.
        :param headers: add these headers; ``{path}`` in a value stands for the request's path and query.
        :param reset: reset the connection ``before`` or ``after`` the call is executed.
        :param hang: wait this number of seconds; then execute the call, if the client is still connected.
        :param slow: send the body slowly, over this number of seconds.
        :param truncate: send only this number of bytes of the body; ``Content-Length`` is the same number.
        :param cut: send this number of bytes of the body, and close the connection; ``Content-Length`` is the
            size of the complete body.
        :param gzip: compress the body, and set ``Content-Encoding``.
        :param endless: after the body, send spaces until the client closes the connection.
        :param effect: execute the call first, and change only the response.
        :param ends: how the created job ends: ``error:<code>``, ``canceled`` or ``deleted``.
        :param job_id: the id of the created job. A number is then a number in responses too.
        :param times: how many requests the fault changes; ``None``: all.
        :param skip: how many matching requests pass unchanged first.
        :param name: change only requests for jobs whose name contains this text. For ``put``, the path of the
            upload must contain it; for ``create_tool``, the name of the job or of the tool.
        """
        return Fault(self, self._call_admin("POST", "faults", {"call": call, **rule})["id"])

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults, with the number of requests that matched (seen) and that were changed (hits)."""
        return list(self._call_admin("GET", "faults"))

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._call_admin("DELETE", "faults")

    def advance(self, seconds: float) -> None:
        """Set the clock forward, and end the jobs that are then due."""
        self._call_admin("POST", "advance", {"seconds": seconds})

    def move(self, job_id: str, to: str) -> None:
        """Move a job to ``rendering`` or ``complete``. For ``complete``, wait for its file."""
        self._call_admin("POST", f"jobs/{job_id}/move", {"to": to})

    def fail(self, job_id: str, code: str, message: str = "") -> None:
        """End a job with an error, and refund it."""
        self._call_admin("POST", f"jobs/{job_id}/fail", {"code": code, "message": message})

    def cancel(self, job_id: str) -> None:
        """Cancel a job, as a person can in the vendor's web app, and refund it."""
        self._call_admin("POST", f"jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Delete a job's file, as a person can in the vendor's web app."""
        self._call_admin("POST", f"jobs/{job_id}/delete")

    def put_asset(self, content: str | os.PathLike[str] | bytes, extension: str) -> str:
        """Upload a file without a signed URL. Return its ``api-assets/…`` path."""
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        return str(self._call_admin("POST", "assets", data, {"extension": extension})["file_path"])

    def webhook(self, url: str, secret: str, events: list[str] | None = None) -> None:
        """Register a webhook, as a person can in the vendor's web app."""
        self._call_admin("POST", "webhooks", {"url": url, "secret": secret, "events": events or []})

    def deliveries(self) -> list[dict[str, Any]]:
        """Return the events: url, type, job_id, attempts, delivered, given_up."""
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
        url = urlsplit(self.url)
        parameters = {name: value for name, value in (query or {}).items() if value is not None}
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        is_https = url.scheme == "https"
        connect = http.client.HTTPSConnection if is_https else http.client.HTTPConnection
        connection = connect(url.netloc, timeout=ADMIN_TIMEOUT_SECONDS)
        try:
            connection.request(method, f"/_emulator/{path}?{urlencode(parameters)}", data)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            try:
                message = json.loads(content)["message"]
            except (ValueError, KeyError):
                message = f"HTTP {response.status}"
            raise ValueError(message)
        return json.loads(content) if content else None


class Fault:
    """A fault that was added to an emulator."""

    def __init__(self, emulator: Emulator, rule_id: str) -> None:
        self._emulator = emulator
        self.id = rule_id

    @property
    def hits(self) -> int:
        """The number of requests that this fault has changed."""
        return int(self._emulator._call_admin("GET", f"faults/{self.id}")["hits"])

    def remove(self) -> None:
        """Remove this fault."""
        self._emulator._call_admin("DELETE", f"faults/{self.id}")
