"""
The tester's handle on an emulator: one that it starts in a thread, or one that runs elsewhere.

Both speak to the server over its admin routes, so whatever a test does can be done with curl too.
Only the standard library is imported until a server is started.
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
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from .world import World

START_SECONDS = 30
ADMIN_SECONDS = 900


class Rule(TypedDict, total=False):
    """What :meth:`Emulator.fault` takes."""

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
    ends: str | None
    times: int | None
    skip: int
    name: str | None


class Emulator:
    """
    Magic Hour on this machine.

    ``with Emulator() as emu:`` runs the server in a thread of this process. The arguments are those
    of :class:`~magichour_provider.emulator.settings.Settings`.

    :param moves: how jobs walk: ``instant``, ``looks:N``, ``seconds:N``, ``manual``, ``realistic``,
        ``realistic:N``.
    :param render: ``real`` makes the MP4; ``stub`` gives a tiny ready-made one.
    :param poll_interval: goes into :attr:`connection`.
    """

    def __init__(self, *, poll_interval: float = 0.1, **settings: Any) -> None:
        self.poll_interval = poll_interval
        self._settings = settings
        self._state: dict[str, Any] = {}
        self._url = ""
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @classmethod
    def attach(cls, url: str, *, poll_interval: float = 0.1) -> Self:
        """A handle on an emulator that runs already, here or in another process."""
        handle = cls(poll_interval=poll_interval)
        handle._attach(url)
        return handle

    def start(self) -> Self:
        """Start the server; ``with`` does it for you."""
        serve = server()
        settings = Settings(**self._settings)
        ready = threading.Event()
        failed: list[BaseException] = []

        async def run() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            async with serve(settings) as world:
                self._url = world.base
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
        # A script that ends without stop() leaves nothing behind either.
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """End the server and delete its files. A fork's copy of the handle leaves it alone."""
        if self._thread and self._loop and self._stop and self._pid == os.getpid():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            atexit.unregister(self.stop)
        self._thread, self._url = None, ""

    def __enter__(self) -> Self:
        return self if self._url else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        if not self._url:
            raise RuntimeError("the emulator is not running: use it in a with statement, or start()")
        return self._url

    @property
    def api_key(self) -> str:
        """The one key it accepts."""
        return str(self._state["api_key"])

    @property
    def connection(self) -> dict[str, Any]:
        """The Airflow connection to it."""
        return {
            "conn_type": "magichour",
            "host": self.url,
            "password": self.api_key,
            "extra": {"poll_interval": self.poll_interval},
        }

    @property
    def connection_json(self) -> str:
        """The connection as text, for ``AIRFLOW_CONN_MAGICHOUR_DEFAULT``."""
        return json.dumps(self.connection)

    @property
    def credits(self) -> int:
        """Credits left; set it to make them run out."""
        return int(self._ask("GET", "state")["credits"])

    @credits.setter  # noqa: A003 - the property above, not the builtin
    def credits(self, amount: int) -> None:
        self._ask("PATCH", "state", {"credits": amount})

    @property
    def moves(self) -> str:
        """How jobs walk; set it to change that for all that are under way."""
        return str(self._ask("GET", "state")["moves"])

    @moves.setter
    def moves(self, moves: str) -> None:
        self._ask("PATCH", "state", {"moves": moves})

    def state(self) -> dict[str, Any]:
        """Its settings, credits and clock, and how often each call was made."""
        return dict(self._ask("GET", "state"))

    def charges(self, name: str | None = None) -> int:
        """How many creates were charged; of jobs whose name contains ``name``."""
        return sum(entry["kind"] == "charge" for entry in self.ledger(name))

    def ledger(self, name: str | None = None) -> list[dict[str, Any]]:
        """Every movement of credits, oldest first: kind, job_id, name, credits, at."""
        return list(self._ask("GET", "ledger", query={"name": name}))

    def jobs(self, name: str | None = None) -> list[dict[str, Any]]:
        """The jobs, oldest first: id, name, status, credits_charged, request, looks and more."""
        return list(self._ask("GET", "jobs", query={"name": name}))

    def job(self, job_id: str) -> dict[str, Any]:
        """One job."""
        return dict(self._ask("GET", f"jobs/{job_id}"))

    def requests(self, call: str | None = None) -> list[dict[str, Any]]:
        """The last 10 000 requests: call, method, path, query, headers, json, status, bytes."""
        return list(self._ask("GET", "requests", query={"call": call}))

    def fault(self, call: str, **rule: Unpack[Rule]) -> Fault:
        """
        Have a call go wrong.

        :param call: ``create``, ``get_video``, ``delete_video``, ``upload_urls``, ``put``,
            ``download``, ``account``, ``create_voice``, ``get_audio``, ``delete_audio`` or ``*``.
        :param status: answer this instead of acting.
        :param body: answer this: text, or anything JSON. ``html=True``: a gateway's page.
        :param headers: add these to the answer.
        :param reset: ``before`` or ``after`` the effect, drop the connection without an answer.
        :param hang: wait so many seconds; then act, if the client is still there.
        :param slow: spread the body over so many seconds.
        :param truncate: answer only the first bytes, as if that were all.
        :param cut: announce all the bytes, send so many, and close.
        :param effect: act first, and let only the answer go wrong.
        :param ends: how the job will end: ``error:<code>``, ``canceled`` or ``deleted``.
        :param times: strike so often; ``None``: always.
        :param skip: let so many pass first.
        :param name: only for jobs whose name contains this; for ``put``: uploads whose path does.
        """
        return Fault(self, self._ask("POST", "faults", {"call": call, **rule})["id"])

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force, with what they have seen and hit."""
        return list(self._ask("GET", "faults"))

    def clear_faults(self) -> None:
        """Behave again."""
        self._ask("DELETE", "faults")

    def advance(self, seconds: float) -> None:
        """Set the clock forward. Jobs that are due by then have ended when this returns."""
        self._ask("POST", "advance", {"seconds": seconds})

    def move(self, job_id: str, to: str) -> None:
        """Take a job to ``rendering`` or ``complete``; waits for its file."""
        self._ask("POST", f"jobs/{job_id}/move", {"to": to})

    def fail(self, job_id: str, code: str, message: str = "") -> None:
        """End a job in ``error``, refunded."""
        self._ask("POST", f"jobs/{job_id}/fail", {"code": code, "message": message})

    def cancel(self, job_id: str) -> None:
        """Cancel a job as a person would in the vendor's web app, refunded."""
        self._ask("POST", f"jobs/{job_id}/cancel")

    def delete(self, job_id: str) -> None:
        """Delete a job's video as a person would in the vendor's web app."""
        self._ask("POST", f"jobs/{job_id}/delete")

    def put_asset(self, content: str | os.PathLike[str] | bytes, extension: str) -> str:
        """Upload a file, short cut; answers its ``api-assets/…`` path."""
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        return str(self._ask("POST", "assets", data, {"extension": extension})["file_path"])

    def webhook(self, url: str, secret: str, events: list[str] | None = None) -> None:
        """Register a receiver, as a person would in the vendor's web app."""
        self._ask("POST", "webhooks", {"url": url, "secret": secret, "events": events or []})

    def deliveries(self) -> list[dict[str, Any]]:
        """The events sent: url, type, job_id, attempts, delivered, given_up."""
        return list(self._ask("GET", "webhooks/deliveries"))

    def _attach(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._state = self._ask("GET", "state")

    def _ask(
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


def server() -> Callable[[Settings], AbstractAsyncContextManager[World]]:
    """What serves, loaded when it is needed."""
    try:
        from .serving import serve
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"{missing.name} is not installed: pip install 'airflow-provider-magichour[emulator]'",
            name=missing.name,
        ) from missing
    return serve


class Fault:
    """A rule in force."""

    def __init__(self, emulator: Emulator, rule_id: str) -> None:
        self._emulator = emulator
        self.id = rule_id

    @property
    def hits(self) -> int:
        """How often it struck."""
        return int(self._emulator._ask("GET", f"faults/{self.id}")["hits"])

    def remove(self) -> None:
        """Behave again, as far as this rule goes."""
        self._emulator._ask("DELETE", f"faults/{self.id}")
