"""
Where a task instance's record is kept.

On Airflow 3.3 and newer it is the task state store, where it never expires. There a second key holds what
others have reported (a webhook, a person): they write it, and the task only reads it. On 3.0 to 3.2 the
record is an Airflow Variable, named by a hash of the task instance: best effort. The task does not delete it
until an upgrade to Airflow 3.3 moves it to the task state store.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any, Protocol
from urllib.parse import quote

from airflow.providers.common.compat.sdk import conf

from magichour_provider.task.record import KEY

log = logging.getLogger(__name__)

REPORTED_KEY = "magichour_reported"


class Store(Protocol):
    """Raises when it cannot read, and returns None only when there is nothing."""

    def get(self) -> object: ...
    def set(self, value: dict[str, Any]) -> None: ...
    def get_reported(self) -> object: ...
    def adopt_command(self, short_id: str, job_id: str, *, anyway: bool = False) -> str: ...
    def pay_again_command(self, short_id: str | None) -> str: ...


class TaskStateStore:
    """Airflow 3.3 and newer."""

    def __init__(self, context: Any) -> None:
        if conf.getboolean("state_store", "clear_on_success", fallback=False):
            log.warning("[state_store] clear_on_success is on: a task cleared after its success pays again")
        self._store = context["task_state_store"]
        self._ti = context["ti"]
        self._before = VariableStore(context)

    def get(self) -> object:
        written = self._store.get(KEY)
        if written is None and (written := self._before.get()) is not None:
            # Airflow was upgraded. A kill between these two calls leaves it in both places.
            self.set(written)
            self._before.delete()
        return written

    def set(self, value: object) -> None:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        self._store.set(KEY, value, retention=NEVER_EXPIRE)

    def get_reported(self) -> object:
        return self._store.get(REPORTED_KEY)

    def adopt_command(self, short_id: str, job_id: str, *, anyway: bool = False) -> str:
        return self._report(short_id, {"job_id": job_id, **({"anyway": True} if anyway else {})})

    def pay_again_command(self, short_id: str | None) -> str:
        if short_id is None:
            return f"curl -X DELETE {self._address(KEY)}"
        return self._report(short_id, {"pay_again": True})

    def _report(self, short_id: str, report: dict[str, Any]) -> str:
        body = json.dumps({"value": {short_id: [report]}, "expires_at": None})
        return f"curl -X PUT {self._address(REPORTED_KEY)} -H 'Content-Type: application/json' -d '{body}'"

    def _address(self, key: str) -> str:
        ti = self._ti
        dag, run, task = (quote(part, safe="") for part in (ti.dag_id, ti.run_id, ti.task_id))
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/state-store/{key}"
        index = -1 if ti.map_index is None else ti.map_index
        return f'-H "Authorization: Bearer $AIRFLOW_TOKEN" "$AIRFLOW_URL/api/v2/{path}?map_index={index}"'


class VariableStore:
    """
    Airflow 3.0 to 3.2.

    ``Variable.get`` reports any failure as "missing", but an error must not look like an empty record. So
    this asks the supervisor directly.
    """

    def __init__(self, context: Any) -> None:
        ti = context["ti"]
        identity = json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index])
        self.key = f"{KEY}_{hashlib.sha256(identity.encode()).hexdigest()[:32]}"

    def get(self) -> object:
        from airflow.sdk.exceptions import ErrorType
        from airflow.sdk.execution_time.comms import ErrorResponse, GetVariable, VariableResult

        answer = _ask_supervisor(GetVariable(key=self.key))
        if isinstance(answer, VariableResult):
            return answer.value
        if isinstance(answer, ErrorResponse) and answer.error == ErrorType.VARIABLE_NOT_FOUND:
            return None
        raise RuntimeError(f"the Variable {self.key} could not be read: {answer}")

    def set(self, value: dict[str, Any]) -> None:
        from airflow.sdk.execution_time.comms import PutVariable

        description = (
            "Magic Hour: what a task instance has paid for. Delete it once the run is over for good."
        )
        _ask_supervisor(PutVariable(key=self.key, value=json.dumps(value), description=description))

    def get_reported(self) -> object:
        return None

    def delete(self) -> None:
        from airflow.sdk.execution_time.comms import DeleteVariable

        _ask_supervisor(DeleteVariable(key=self.key))

    def adopt_command(self, short_id: str, job_id: str, *, anyway: bool = False) -> str:
        body = json.dumps({"job_id": job_id, "short_id": short_id})
        return f"airflow variables set {self.key} '{body}'"

    def pay_again_command(self, short_id: str | None) -> str:
        return f"airflow variables delete {self.key}"


def _ask_supervisor(message: Any) -> Any:
    from airflow.sdk.execution_time import task_runner

    return task_runner.SUPERVISOR_COMMS.send(message)
