"""What the entry point registers, and which modules its import loads in every component of Airflow."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest

import magichour_provider.plugin

IMPORT = """
import json, sys
import airflow.plugins_manager
before = set(sys.modules)
import magichour_provider.plugin
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def views() -> list[dict[str, Any]]:
    """The views that Airflow gets when it starts."""
    plugin = importlib.reload(magichour_provider.plugin).MagicHourPlugin
    return list(getattr(plugin, "external_views", []))


def test_importing_the_plugin_imports_nothing_else() -> None:
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT], capture_output=True, text=True, check=True
    )
    loaded = json.loads(answer.stdout.splitlines()[-1])
    assert set(loaded) - {"magichour_provider"} == {"magichour_provider.plugin"}


def test_airflow_finds_the_plugin_by_its_entry_point() -> None:
    (found,) = [point for point in entry_points(group="airflow.plugins") if point.name == "magichour"]
    assert found.load().name == "magichour"


def test_below_airflow_3_4_no_run_or_task_gets_a_tab() -> None:
    assert [view["destination"] for view in views()] == ["nav"]


def test_a_setting_switches_the_tabs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__MAGICHOUR__TABS", "True")
    assert [view["destination"] for view in views()] == ["nav", "dag_run", "task_instance"]


def test_from_airflow_3_4_only_our_runs_and_tasks_get_a_tab(monkeypatch: pytest.MonkeyPatch) -> None:
    from magichour_provider import operators, sensors

    monkeypatch.setattr("airflow.__version__", "3.4.0rc1")
    nav, *tabs = views()
    assert "applies_to" not in nav
    assert len(tabs) == 2
    for tab in tabs:
        assert set(tab["applies_to"]["operators"]) == {
            name
            for module in (operators, sensors)
            for name, found in vars(module).items()
            if isinstance(found, type) and found.__module__ == module.__name__
        } - {"ToolOperator"}  # what the operators of single tools share


def test_on_airflow_3_0_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.plugins_manager import AirflowPlugin

    monkeypatch.delattr(AirflowPlugin, "external_views", raising=False)
    plugin = importlib.reload(magichour_provider.plugin).MagicHourPlugin
    assert plugin.fastapi_apps == []


@pytest.fixture(autouse=True)
def _as_before() -> Any:
    yield
    importlib.reload(magichour_provider.plugin)
