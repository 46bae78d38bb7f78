"""The buttons on a task: its videos inside Airflow, and its job in the vendor's library."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from typing import Protocol

    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    class TaskInstance(Protocol):
        """What ``watch_url`` needs of a task instance; the context's ``ti`` has it."""

        @property
        def dag_id(self) -> str: ...
        @property
        def run_id(self) -> str: ...
        @property
        def task_id(self) -> str: ...
        @property
        def map_index(self) -> int | None: ...


class MagicHourJobLink(BaseOperatorLink):
    """
    The task pushes the URL as soon as it knows the job, under the key that the UI reads. So the button works
    while the task is deferred.

    .. versionadded:: 0.1.0
    """

    @property
    def name(self) -> str:
        return "Magic Hour job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Airflow calls this when the task has ended, to push the URL once more.

        This does not read the URL that was pushed: if there is none, Airflow logs an error.
        """
        return str(getattr(operator, "job_link", ""))


class MagicHourWatchLink(BaseOperatorLink):
    """
    The task's jobs on the plugin's page. The task pushes the URL (``watch_url``) before the paid call, since
    a task with a lost answer needs the page most.

    .. versionadded:: 0.1.0
    """

    @property
    def name(self) -> str:
        return "Watch"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return watch_url(ti_key)


def watch_url(ti: TaskInstance) -> str:
    """
    The URL of the plugin's page of one task instance.

    It is relative, without a leading slash: Airflow's UI has a ``<base href>`` with the path of
    ``[api] base_url``, which a worker does not know. The plugin redirects it to the page inside Airflow's UI.
    """
    run = f"magichour/watch/dags/{quote(ti.dag_id, safe='')}/runs/{quote(ti.run_id, safe='')}"
    mapped = "" if ti.map_index is None or ti.map_index < 0 else f"{ti.map_index}/"
    return f"{run}/tasks/{quote(ti.task_id, safe='')}/{mapped}"
