"""An object store in memory, for the tests of what is in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import airflow.sdk.io
import pytest

Bucket = Callable[[Callable[[str], Any]], None]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Makes ``memory://`` the file system that a connection id leads to."""
    where = "airflow.sdk.io" if hasattr(airflow.sdk.io, "get_fs") else "airflow.io"  # 3.0

    def leads_to(filesystem: Callable[[str], Any]) -> None:
        monkeypatch.setattr(f"{where}.get_fs", lambda _, conn_id, *__: filesystem(conn_id))
        monkeypatch.setattr("airflow.sdk.io.store._STORE_CACHE", {})

    return leads_to
