"""The button on a task that opens its job in the vendor's library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class MagicHourJobLink(BaseOperatorLink):
    """
    The URL is pushed by the task as soon as it knows the job, under the key that the UI reads: so the button
    works while the task is deferred.
    """

    @property
    def name(self) -> str:
        return "Magic Hour job"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return XCom.get_value(ti_key=ti_key, key=self.xcom_key) or ""
