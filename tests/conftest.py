"""
Each test process has an Airflow home of its own, so that none touches the user's or another's.

``make test`` starts one process for each processor. Ports are free ones that the system gives.
"""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from fastapi import FastAPI

gc.set_threshold(100_000, 50, 50)  # to search Airflow's many objects for garbage took 7 % of the time

# Airflow reads all of this once, when it is first imported: so it is set before any test module is.
for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[name]
HOME = Path(tempfile.mkdtemp(prefix="airflow-home-"))


def one_certificate(folder: Path) -> Path:
    """Every client loads the CA certificates, used or not; all of certifi's take 50 ms."""
    bundle = folder / "ca.pem"
    bundle.write_text(
        certifi.contents().partition("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
    )
    return bundle


os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__API_AUTH__JWT_SECRET": "for tests only, and long enough for the algorithm that signs with it",
    "AIRFLOW__CORE__FERNET_KEY": "",  # what leaks into the database can be read there
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    "SSL_CERT_FILE": str(one_certificate(HOME)),
}


# Fixtures that take seconds to set up: the tests that share one run in the same process.
SHARED = ("api_server", "runs", "s3_server")


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Say which tests run in one process, and begin with the slow ones: a slow last one would run alone."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        serial = ["serial"] if item.get_closest_marker("serial") else []
        for group in [*serial, *(name for name in SHARED if name in fixtures)][:1]:
            item.add_marker(pytest.mark.xdist_group(group))
    yield
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def database(pytestconfig: pytest.Config) -> Path:
    """
    Airflow's database, migrated. The first run with an Airflow makes it, and the later ones copy it.

    :returns: the file that is copied, in which no test writes.
    """
    from airflow import __version__
    from airflow.utils.db import initdb
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def write_without_waiting_for_the_disk(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    assert pytestconfig.cache is not None
    made = pytestconfig.cache.mkdir("airflow") / f"{__version__}.db"
    if made.exists():
        shutil.copy(made, HOME / "airflow.db")
        return made
    initdb()
    with closing(sqlite3.connect(HOME / "airflow.db")) as connection:
        connection.execute("vacuum into ?", (str(HOME / "copy.db"),))
    unfinished = made.with_suffix(f".{os.getpid()}")
    shutil.copy(HOME / "copy.db", unfinished)
    unfinished.replace(made)
    return made


@pytest.fixture(scope="session")
def api_server(database: Path) -> FastAPI:
    """Airflow's own app: its UI, its REST API, and the plugin from the entry point."""
    from airflow.api_fastapi.app import create_app

    return create_app(apps="core")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Airflow logs much, and nobody reads the output of a test that passed: pytest-xdist need not send it."""
    report = yield
    if report.passed:
        report.sections.clear()
    return report


def pytest_sessionfinish() -> None:
    gc.freeze()  # pytest looks for garbage five times now, which takes seconds with Airflow in memory


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
