"""
The plugin: what Airflow's UI shows of the videos.

Every component of Airflow imports plugins, the processes of tasks too. So this module imports nothing beyond
Airflow's own base class; the app is imported by the api-server when the first request for a page arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]

PREFIX, ROUTE = "/magichour", "magichour"
OPERATORS = (
    "TalkingPhotoOperator",
    "VoiceGeneratorOperator",
    "TalkingPhotoSensor",
    "VoiceGeneratorSensor",
)


async def serve(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """The real app (``plugin.app``), imported by the first request."""
    from magichour_provider.plugin.app import studio

    await studio()(scope, receive, send)


def _view(destination: str, href: str, **more: Any) -> dict[str, Any]:
    """The paths are relative: the UI's ``<base href>`` knows the path of ``[api] base_url``."""
    return {
        "name": "Magic Hour",
        "destination": destination,
        "href": f"magichour/{href}",
        "url_route": ROUTE if destination == "nav" else f"{ROUTE}-{destination}",
        "icon": "magichour/static/icon.svg",
        "icon_dark_mode": "magichour/static/icon-dark.svg",
        **more,
    }


def _views() -> list[dict[str, Any]]:
    """
    A tab shows on every run and task of the installation, unless Airflow (3.4) knows ``applies_to``.

    So below 3.4 there are tabs only where ``[magichour] tabs`` says so.
    """
    views = [_view("nav", "", category="browse")]
    scoped = {"applies_to": {"operators": list(OPERATORS)}}
    if airflow_version() >= (3, 4) or conf.getboolean("magichour", "tabs", fallback=False):
        run = "dags/{DAG_ID}/runs/{RUN_ID}/"
        views.append(_view("dag_run", run, **scoped))
        views.append(_view("task_instance", f"{run}tasks/{{TASK_ID}}/{{MAP_INDEX}}/", **scoped))
    return views


def airflow_version() -> tuple[int, int]:
    """Major and minor."""
    from airflow import __version__

    major, minor, *_ = __version__.split(".")
    return int(major), int(minor)


class MagicHourPlugin(AirflowPlugin):
    """Airflow 3.0 has no place for such pages: there it does nothing."""

    name = "magichour"
    if hasattr(AirflowPlugin, "external_views"):
        fastapi_apps = [{"app": serve, "url_prefix": PREFIX, "name": "Magic Hour"}]
        external_views = _views()
