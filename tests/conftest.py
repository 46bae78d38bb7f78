"""An Airflow home of this test session's own, so that no test touches, or is touched by, the user's."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# Airflow reads all of this once, when it is first imported: so it is set before any test module is.
for name in [name for name in os.environ if name.startswith("AIRFLOW_")]:
    del os.environ[name]
HOME = Path(tempfile.mkdtemp(prefix="airflow-home-"))
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(HOME / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__API_AUTH__JWT_SECRET": "for tests only, and long enough for the algorithm that signs with it",
    "AIRFLOW__CORE__FERNET_KEY": "",  # what leaks into the database can be read there
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
}


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)
