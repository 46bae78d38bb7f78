"""Where Airflow keeps what it knows: PostgreSQL, or, for the short form in the tests, SQLite."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Protocol

PATIENCE = 180  # seconds, for anything to start


class Database(Protocol):
    """Can be asked while the api-server is dead."""

    url: str

    @property
    def pid(self) -> int | None: ...
    def rows(self, query: str) -> list[tuple[Any, ...]]: ...
    def restart(self) -> None: ...
    def stop(self) -> None: ...


class Sqlite:
    """Nothing to install, to restart or to stop."""

    pid: int | None = None

    def __init__(self, folder: Path) -> None:
        self._file = folder / "airflow.db"
        self.url = f"sqlite:///{self._file}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            return database.execute(query).fetchall()

    def restart(self) -> None: ...

    def stop(self) -> None: ...


class Postgres:
    """A server of its own, on loopback, with its data in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        import psycopg2

        tools = _postgres_tools()
        self._data = Path(tempfile.mkdtemp(prefix="airflow-postgres-"))
        # PostgreSQL refuses root; Debian's package makes a user for it.
        user: dict[str, Any] = {"cwd": self._data}
        if os.geteuid() == 0:
            user |= {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self._data, "postgres", "postgres")
        subprocess.run(
            [tools / "initdb", "-D", self._data, "-U", "airflow", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            stdout=subprocess.DEVNULL,
            **user,
        )
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 300,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._command: list[Any] = [tools / "postgres", "-D", self._data, *options]
        self._user, self._log = user, folder / "postgres.log"
        self._process = self._start()
        address = f"airflow@127.0.0.1:{port}/postgres"
        self.url = f"postgresql+psycopg2://{address}"
        self._connect = partial(psycopg2.connect, f"postgresql://{address}")
        self._database = self._connected()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if self._database.closed:
            self._database = self._connected()
        with self._database.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def restart(self) -> None:
        """At once, as after a crash: every connection breaks, and what was committed is there again."""
        self._database.close()
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(30)
        self._process = self._start()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        shutil.rmtree(self._data, ignore_errors=True)

    def _start(self) -> subprocess.Popen[Any]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, **self._user
            )

    def _connected(self) -> Any:
        database = until(self._connect, "PostgreSQL")
        database.autocommit = True
        return database


def _postgres_tools() -> Path:
    """The folder with ``initdb`` and ``postgres``: Debian does not put it on the path."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not debian:
        sys.exit("PostgreSQL is not installed: apt-get install postgresql")
    return debian[-1].parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(attempt: Callable[[], Any], what: str) -> Any:
    """What ``attempt`` gives as soon as it gives something."""
    deadline = time.monotonic() + PATIENCE
    problem: object = None
    while time.monotonic() < deadline:
        try:
            if found := attempt():
                return found
        except Exception as error:  # noqa: BLE001 - it is not there yet; the last one is shown
            problem = error
        time.sleep(0.2)
    raise RuntimeError(f"{what}: not within {PATIENCE} s ({problem})")
