"""
Each test process has an Airflow home of its own, so that none touches the user's or another's.

``make test`` starts one process for each processor. Ports are free ones that the system gives.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import certifi
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

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


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None]:
    """Give all serial tests to one process, and begin with the slow ones: a slow last one would run alone."""
    for item in items:
        if item.get_closest_marker("serial"):
            item.add_marker(pytest.mark.xdist_group("serial"))
    yield
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
