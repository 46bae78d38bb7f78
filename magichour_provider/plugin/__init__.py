"""
The plugin: the pages about the videos in Airflow's UI, and the endpoint of the webhooks.

Every component of Airflow imports plugins, the processes of tasks too. So this module imports only Airflow's
own base class. The API server imports the app at the first request.
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
    """The real app (``plugin.app``), which the first request imports."""
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
    The pages in Airflow's UI. Below Airflow 3.4, which knows ``applies_to``, a tab would appear on every run
    and task of the installation. So there the tabs are off, unless ``[magichour] tabs`` is on.
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
    """On Airflow 3.0 a plugin cannot add such pages, so there it does nothing."""

    name = "magichour"
    if hasattr(AirflowPlugin, "external_views"):
        fastapi_apps = [{"app": serve, "url_prefix": PREFIX, "name": "Magic Hour"}]
        external_views = _views()
