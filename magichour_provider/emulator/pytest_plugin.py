"""
The pytest plugin: a fixture that starts an emulator and connects Airflow to it.

Where this package is installed, pytest loads this module in every run. So it imports slow modules only when
a test uses the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .threaded_server import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "magichour_emulator"
CONNECTION = "AIRFLOW_CONN_MAGICHOUR_DEFAULT"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**settings): the settings of the magichour_emulator fixture",
    )


@pytest.fixture
def magichour_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """
    Start an emulator for one test.

    Airflow's connection ``magichour_default`` points to it, in this process and in its child processes. A
    marker changes the settings: ``@pytest.mark.magichour_emulator(progression="polls:3", credits=100)``.
    """
    marker = request.node.get_closest_marker(MARKER)
    with Emulator(**(marker.kwargs if marker else {})) as emulator, pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONNECTION, emulator.connection_json)
        yield emulator
