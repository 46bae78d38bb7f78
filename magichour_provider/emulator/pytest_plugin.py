"""
The pytest plugin: a fixture with an emulator that Airflow is connected to.

Loaded by its entry point wherever this package and pytest are installed, so it imports next to
nothing until the fixture is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .handle import Emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = "magichour_emulator"
CONNECTION = "AIRFLOW_CONN_MAGICHOUR_DEFAULT"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**settings): start the emulator of the magichour_emulator fixture with these",
    )


@pytest.fixture
def magichour_emulator(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """
    Magic Hour on this machine, for one test.

    Airflow's ``magichour_default`` leads to it, in this process and those that it starts. Settings
    come from ``@pytest.mark.magichour_emulator(moves="looks:3", credits=100)``.
    """
    marker = request.node.get_closest_marker(MARKER)
    with Emulator(**(marker.kwargs if marker else {})) as emulator, pytest.MonkeyPatch.context() as on:
        on.setenv(CONNECTION, emulator.connection_json)
        yield emulator
