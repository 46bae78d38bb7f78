"""The buttons of a task: its jobs on the plugin's page, and its job in the vendor's library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class MagicHourJobLink(BaseOperatorLink):
    """
    The job in the vendor's library.

    The task pushes the URL when it knows the job, under the key that the UI reads. So the button works while
    the task is deferred.

    .. versionadded:: 0.1.0
    """

    @property
    def name(self) -> str:
        return "Magic Hour job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Airflow calls this when the task has ended, to push the URL again.

        This does not read the pushed URL: if there is none, the read would log an error.
        """
        return str(getattr(operator, "job_link", ""))


class MagicHourWatchLink(BaseOperatorLink):
    """
    The task's jobs on the plugin's page. The task pushes the URL (``watch_url``) before the paid call,
    because a task with a lost answer needs the page.

    .. versionadded:: 0.1.0
    """

    @property
    def name(self) -> str:
        return "Watch"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return watch_url(ti_key)


def watch_url(ti: Any) -> str:
    """
    The URL of the plugin's page of one task instance.

    It is relative, without a leading slash: Airflow's UI has a ``<base href>`` with the path of
    ``[api] base_url``, which a worker does not know. The plugin redirects to the page inside Airflow's UI.

    :param ti: a task instance, or its key.
    """
    run = f"magichour/watch/dags/{quote(ti.dag_id, safe='')}/runs/{quote(ti.run_id, safe='')}"
    mapped = "" if ti.map_index is None or ti.map_index < 0 else f"{ti.map_index}/"
    return f"{run}/tasks/{quote(ti.task_id, safe='')}/{mapped}"
