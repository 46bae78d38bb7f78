"""
Fixtures for tests of whole DAGs: real Airflow (see ``harness.py``), and the emulator behind its connection.

A test says which tasks there are and looks at what became of them::

    def test_a_retry_does_not_pay_again(airflow, emulator):
        emulator.fault("download", status=500, times=4)
        run = airflow.video(output_path="/tmp/out/", retries=1)
        assert run.state() == "success"
        assert emulator.charges() == 1
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from buckets import Buckets
from harness import Airflow

from magichour_provider.emulator import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def dags(database: Path) -> Path:
    """Airflow's DAGs folder, with a migrated database behind it."""
    from airflow.configuration import conf

    return Path(conf.get("core", "dags_folder"))


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Magic Hour, behind ``magichour_default``. It renders nothing: videos are a tiny ready-made one."""
    with Emulator(render="stub", poll_interval=0.02) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
        yield emulator


@pytest.fixture
def submit(emulator: Emulator) -> Callable[[], str]:
    """Pays for a video as somebody else would, without Airflow, and returns the id of the job."""

    def submit() -> str:
        assets = {
            "image_file_path": emulator.put_asset(b"a photo", "jpg"),
            "audio_file_path": emulator.put_asset(b"a voice", "mp3"),
        }
        answer = httpx.post(
            f"{emulator.url}/v1/ai-talking-photo",
            json={"assets": assets, "start_seconds": 0, "end_seconds": 1},
            headers={"Authorization": f"Bearer {emulator.api_key}"},
        )
        return str(answer.json()["id"])

    return submit


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own retries follow at once; a Retry-After is still honoured."""
    monkeypatch.setattr("magichour_provider.api.retries.backoff", lambda _: 0.0)


@pytest.fixture(autouse=True)
def short_write_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be written is given up soon."""
    for timeout in ("WRITE_TIMEOUT", "OUTCOME_WRITE_TIMEOUT"):
        monkeypatch.setattr(f"magichour_provider.task.journal.{timeout}", 0.5)


@pytest.fixture
def airflow(
    dags: Path, emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Airflow]:
    dags.mkdir()
    yield Airflow(tmp_path, dags, monkeypatch)
    shutil.rmtree(dags)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Buckets]:
    for module in ("airflow.providers.amazon", "moto", "s3fs"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: requirements/dev.txt has it")
    with Buckets.serve() as buckets:
        yield buckets


@pytest.fixture
def s3(s3_server: Buckets, monkeypatch: pytest.MonkeyPatch) -> Iterator[Buckets]:
    """An S3 server with an empty bucket, which ``s3://store@media/`` leads to."""
    s3_server.client.create_bucket(Bucket="media")
    monkeypatch.setenv("AIRFLOW_CONN_STORE", s3_server.connection())
    monkeypatch.setattr("airflow.sdk.io.store._STORE_CACHE", {})
    yield s3_server
    s3_server.reset()
