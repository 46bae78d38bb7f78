"""What an Airflow on several machines shares beside its database: Redis, and object storage (moto's S3)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from .database import free_port, until

MEDIA = Path(__file__).resolve().parent.parent / "example_dags/media"
S3_KEY = {"key": "AKIACHAOS", "secret": "none-since-everything-is-on-loopback"}
S3_CONNECTION = "chaos_s3"


class Service(Protocol):
    """:ivar environment: by which the processes of Airflow find it."""

    environment: dict[str, str]

    @property
    def pid(self) -> int: ...
    def stop(self) -> None: ...


class Redis:
    """The broker of Celery. What it was told survives its death, but for the last second."""

    def __init__(self, folder: Path) -> None:
        server = shutil.which("redis-server") or sys.exit(
            "Redis is not installed: apt-get install redis-server"
        )
        port = free_port()
        self._command = [
            *(server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--appendonly", "yes", "--save", ""),
        ]
        self._log = folder / "redis.log"
        self.environment = {"AIRFLOW__CELERY__BROKER_URL": f"redis://127.0.0.1:{port}/0"}
        self._process = _started(self._command, self._log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def restart(self) -> None:
        """After a SIGKILL."""
        self.stop()
        self._process = _started(self._command, self._log)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class S3:
    """Two buckets behind the connection ``chaos_s3``: ``videos``, and ``media`` with the examples' files."""

    def __init__(self, folder: Path) -> None:
        import s3fs

        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
        self._process = _started(command, folder / "s3.log")
        until(lambda: urllib.request.urlopen(url, timeout=5), "S3")
        self._files: Any = s3fs.S3FileSystem(endpoint_url=url, use_listings_cache=False, **S3_KEY)
        for bucket in ("media", "videos"):
            self._files.mkdir(bucket)
        for file in MEDIA.iterdir():
            self._files.pipe(f"media/{file.name}", file.read_bytes())
        self.environment = {
            f"AIRFLOW_CONN_{S3_CONNECTION.upper()}": json.dumps(
                {
                    "conn_type": "aws",
                    "login": S3_KEY["key"],
                    "password": S3_KEY["secret"],
                    "extra": {"endpoint_url": url, "region_name": "us-east-1"},
                }
            ),
            "STACK_MEDIA": f"s3://{S3_CONNECTION}@media",
            "STACK_VIDEOS": f"s3://{S3_CONNECTION}@videos",
        }

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, video: str) -> bytes | None:
        """A file of ``videos``, or None."""
        try:
            return bytes(self._files.cat_file(f"videos/{video}"))
        except FileNotFoundError:
            return None

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
