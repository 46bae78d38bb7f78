"""
The Airflow plugin: pages about the jobs in Airflow's UI, and the webhook endpoint.

Every component of Airflow imports its plugins, and so does every task process. So this module imports only
Airflow's own base class. The API server imports the app (``plugin.app``) at the first request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]

PREFIX, ROUTE = "/magichour", "magichour"
OPERATORS = (  # whose runs and tasks get a tab
    "MagicHourOperator",
    "TalkingPhotoOperator",
    "VoiceGeneratorOperator",
    "ImageGeneratorOperator",
    "AutoSubtitleOperator",
    "JobSensor",
    "TalkingPhotoSensor",
    "VoiceGeneratorSensor",
)


async def serve(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Pass a request to the app. The first request imports it."""
    from magichour_provider.plugin.app import create_app

    await create_app()(scope, receive, send)


def _view(destination: str, href: str, **more: Any) -> dict[str, Any]:
    """
    An entry of ``external_views``.

    Its paths are relative, because the UI's ``<base href>`` has the path of ``[api] base_url``.
    """
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
    The entries of all pages in Airflow's UI.

    Airflow 3.4 added ``applies_to``. On older versions a tab would appear on every run and task of the
    installation. So there the tabs are off, unless ``[magichour] tabs`` is on.
    """
    views = [_view("nav", "", category="browse")]
    scoped = {"applies_to": {"operators": list(OPERATORS)}}
    if airflow_version() >= (3, 4) or conf.getboolean("magichour", "tabs", fallback=False):
        run = "dags/{DAG_ID}/runs/{RUN_ID}/"
        views.append(_view("dag_run", run, **scoped))
        views.append(_view("task_instance", f"{run}tasks/{{TASK_ID}}/{{MAP_INDEX}}/", **scoped))
    return views


def airflow_version() -> tuple[int, int]:
    """The major and the minor version."""
    from airflow import __version__

    major, minor, *_ = __version__.split(".")
    return int(major), int(minor)


class MagicHourPlugin(AirflowPlugin):
    """It does nothing on Airflow 3.0, where a plugin cannot add pages to the UI."""

    name = "magichour"
    if hasattr(AirflowPlugin, "external_views"):
        fastapi_apps = [{"app": serve, "url_prefix": PREFIX, "name": "Magic Hour"}]
        external_views = _views()
