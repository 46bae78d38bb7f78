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
from pathlib import Path
from typing import Any, Protocol

PATIENCE = 180  # seconds, for anything to start


class Database(Protocol):
    """Can be asked while the api-server is dead."""

    url: str
    pid: int | None

    def rows(self, query: str) -> list[tuple[Any, ...]]: ...
    def stop(self) -> None: ...


class Sqlite:
    """Nothing to install, and nothing to stop."""

    pid: int | None = None

    def __init__(self, folder: Path) -> None:
        self._file = folder / "airflow.db"
        self.url = f"sqlite:///{self._file}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            return database.execute(query).fetchall()

    def stop(self) -> None: ...


class Postgres:
    """A server of its own, on loopback, with its data in a temporary folder. It is never killed."""

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
        with (folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [tools / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **user,
            )
        self.pid: int | None = self._process.pid
        address = f"airflow@127.0.0.1:{port}/postgres"
        self.url = f"postgresql+psycopg2://{address}"
        self._database = until(lambda: psycopg2.connect(f"postgresql://{address}"), "PostgreSQL")
        self._database.autocommit = True

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._database.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        shutil.rmtree(self._data, ignore_errors=True)


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
