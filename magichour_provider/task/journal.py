"""
Has this task instance paid already? The one room that decides whether to pay.

Before the paid call an *intent* is written, after it the *job*. Both survive whatever dies in between, so the
next try knows one of three things: nothing was sent, a job exists, or a call went out whose answer was lost.
The record belongs to one task instance (DAG run, task, map index) and is shared by all its tries.

On Airflow 3.3 and newer it is kept in the task state store, and never expires. On 3.0 to 3.2 it is an Airflow
Variable, named by a hash of the task instance: best effort, and never deleted by the task, until Airflow has
become 3.3 and the record has moved to the task state store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote

import tenacity
from airflow.providers.common.compat.sdk import conf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from magichour_provider.api.wire import LIBRARY_URL, Job
from magichour_provider.exceptions import (
    JobCanceled,
    JobDeleted,
    JobFailed,
    JobMismatch,
    JournalUnavailable,
    MagicHourError,
    NotFound,
    RequestFailed,
    SubmissionUncertain,
)

log = logging.getLogger(__name__)

KEY = "magichour_journal"
JUST_CREATED = 600.0  # seconds in which the API may not know a job yet that it has just made
KEPT_JOBS = 10


class _Written(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Intent(_Written):
    """The paid call is about to be sent. Its id is in the job's name, so a person can find the job."""

    short_id: str
    try_number: int
    at: datetime


class PaidJob(_Written):
    """A job that this task instance has paid for. Only ``job_id`` is needed: a person may have adopted it."""

    job_id: str = Field(min_length=1)
    credits_charged: float | None = None
    submitted_at: datetime | None = None
    host: str | None = None
    inputs: dict[str, str] | None = None
    output_path: str | None = None
    max_tries: int | None = None

    def age(self, now: float) -> float:
        return now - self.submitted_at.timestamp() if self.submitted_at else float("inf")


class Record(_Written):
    """All that is known, newest job last."""

    intent: Intent | None = None
    jobs: tuple[PaidJob, ...] = ()

    @classmethod
    def of(cls, written: object) -> Record:
        """
        :raises JournalUnavailable: something is written there that cannot be read.
        """
        try:
            if isinstance(written, str):
                written = json.loads(written)
            if isinstance(written, dict) and "job_id" in written:
                written = {"jobs": [written]}
            if written is None:
                return cls()
            # A misspelt "job_id" must not read as "nothing is paid", though newer fields may come along.
            known = isinstance(written, dict) and written.keys() & cls.model_fields.keys()
            return cls.model_validate(written if known else None)
        except (ValueError, ValidationError) as error:
            raise JournalUnavailable(
                f"what is written under {KEY} cannot be read, so whether this task has paid is not known; "
                'write {"job_id": "…"} there to adopt a job, or delete the key to pay anew',
                retryable=False,
            ) from error

    def job_for(self, inputs: Mapping[str, str]) -> PaidJob | None:
        """The job that was paid for these inputs; an adopted one counts as paid for any."""
        return next((job for job in reversed(self.jobs) if job.inputs in (None, dict(inputs))), None)

    def with_job(self, job: PaidJob) -> Record:
        others = [known for known in self.jobs if known.job_id != job.job_id]
        return Record(jobs=(*others, job)[-KEPT_JOBS:])


def decide(
    record: Record,
    inputs: Mapping[str, str],
    *,
    host: str,
    max_tries: int,
    said: Job | RequestFailed | None,
    now: float,
) -> PaidJob | None:
    """
    The job to take up, or None: nothing has been paid for that could be taken up, so submit.

    :param inputs: the fingerprint of what the task asks for now.
    :param max_tries: the task instance's now. Airflow raises it when a person clears a finished task, and
        only then.
    :param said: what the vendor answered when asked for ``record.job_for(inputs)``.
    :raises SubmissionUncertain: a call went out, and nobody knows what became of it.
    :raises JobMismatch: paid for other inputs, or on another host.
    :raises JobEnded: paid for, ended without a video, and the same input would do so again.
    """
    if record.intent is not None:
        raise SubmissionUncertain(
            f"try {record.intent.try_number} sent the paid call (name ends in [mh-{record.intent.short_id}], "
            f"{record.intent.at:%Y-%m-%d %H:%M:%S} UTC) and died before its answer was written down. "
            "A job may have been made and charged"
        )
    job = record.job_for(inputs)
    if job is None:
        if record.jobs and not _cleared(record.jobs[-1], max_tries):
            raise _other_inputs(record.jobs[-1], inputs)
        return None
    if job.host is not None and job.host != host:
        raise JobMismatch(
            f"this task has paid for job {job.job_id} on {job.host}, but its connection now names {host}; "
            "point the connection back to wait for the job",
            job_id=job.job_id,
        )
    if isinstance(said, NotFound) and said.by_vendor and job.age(now) > JUST_CREATED:
        raise JobDeleted(
            f"job {job.job_id}, which this task has paid for, is not known to Magic Hour any more: deleted, "
            "or the connection's key now belongs to another account",
            job_id=job.job_id,
            status_code=said.status_code,
        )
    if not isinstance(said, Job):
        return job  # cannot be asked now: wait for it, which asks until the deadline
    try:
        said.raise_unless_complete()
    except (JobFailed, JobCanceled) as ended:
        if ended.retryable or _cleared(job, max_tries):
            return None  # refunded
        raise
    return job


def _cleared(job: PaidJob, max_tries: int) -> bool:
    """Has a person cleared the task since it paid for this job?"""
    return job.max_tries is not None and max_tries > job.max_tries


def _other_inputs(job: PaidJob, inputs: Mapping[str, str]) -> JobMismatch:
    before = job.inputs or {}
    changed = sorted(field for field in {*before, *inputs} if before.get(field) != inputs.get(field))
    return JobMismatch(
        f"this task has paid for job {job.job_id} with other inputs: {', '.join(changed)} changed "
        "between two tries. A retry never pays again by itself: clear the task to pay for the new inputs, "
        "or wait for the paid job with a sensor",
        job_id=job.job_id,
    )


# --- where it is kept ---


class Store(Protocol):
    """Raises when it cannot read, and returns None only when there is nothing."""

    def get(self) -> object: ...
    def set(self, value: dict[str, Any]) -> None: ...
    def adopt_command(self) -> str: ...
    def forget_command(self) -> str: ...


class TaskStateStore:
    """Airflow 3.3 and newer."""

    def __init__(self, context: Any) -> None:
        self._store = context["task_state_store"]
        self._ti = context["ti"]
        self._before = VariableStore(context)

    def get(self) -> object:
        written = self._store.get(KEY)
        if written is None and (written := self._before.get()) is not None:
            # Airflow has been upgraded. A kill between these two leaves it in both places, never in neither.
            self.set(written)
            self._before.delete()
        return written

    def set(self, value: object) -> None:
        from airflow.sdk.execution_time.context import NEVER_EXPIRE

        self._store.set(KEY, value, retention=NEVER_EXPIRE)

    def adopt_command(self) -> str:
        body = '{"value": {"job_id": "JOB_ID"}, "expires_at": null}'
        return f"curl -X PUT {self._address()} -H 'Content-Type: application/json' -d '{body}'"

    def forget_command(self) -> str:
        return f"curl -X DELETE {self._address()}"

    def _address(self) -> str:
        ti = self._ti
        dag, run, task = (quote(part, safe="") for part in (ti.dag_id, ti.run_id, ti.task_id))
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/state-store/{KEY}"
        index = -1 if ti.map_index is None else ti.map_index
        return f'-H "Authorization: Bearer $AIRFLOW_TOKEN" "$AIRFLOW_URL/api/v2/{path}?map_index={index}"'


class VariableStore:
    """Airflow 3.0 to 3.2. ``Variable.get`` takes every failure for "not there"; the supervisor does not."""

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

    def delete(self) -> None:
        from airflow.sdk.execution_time.comms import DeleteVariable

        _ask_supervisor(DeleteVariable(key=self.key))

    def adopt_command(self) -> str:
        return f'airflow variables set {self.key} \'{{"job_id": "JOB_ID"}}\''

    def forget_command(self) -> str:
        return f"airflow variables delete {self.key}"


def _ask_supervisor(message: Any) -> Any:
    from airflow.sdk.execution_time import task_runner

    return task_runner.SUPERVISOR_COMMS.send(message)


class Journal:
    """The record of one task instance: read once, then written through."""

    def __init__(self, store: Store, *, try_number: int, max_tries: int) -> None:
        """
        :raises JournalUnavailable: could not be read; nothing was sent.
        """
        self._store = store
        self.try_number = try_number
        self.max_tries = max_tries
        try:
            written = store.get()
        except Exception as error:
            raise JournalUnavailable(
                f"whether this task has paid already could not be read ({type(error).__name__}: {error}); "
                "nothing was submitted, and a retry reads it again"
            ) from error
        self.record = Record.of(written)

    @classmethod
    def of(cls, context: Any) -> Journal:
        """The journal of the task instance that is running."""
        ti = context["ti"]
        if "task_state_store" in context:
            if conf.getboolean("state_store", "clear_on_success", fallback=False):
                log.warning(
                    "[state_store] clear_on_success is on: whoever clears this task after it has succeeded "
                    "pays again"
                )
            store: Store = TaskStateStore(context)
        else:
            store = VariableStore(context)
        return cls(store, try_number=ti.try_number, max_tries=ti.max_tries)

    def intend(self) -> str:
        """
        Write down that the paid call is about to be sent.

        :returns: the short id by which a person finds the job.
        :raises JournalUnavailable: not written, so do not send; nothing charged.
        """
        intent = Intent(short_id=uuid.uuid4().hex[:8], try_number=self.try_number, at=datetime.now(UTC))
        try:
            self._write(self.record.model_copy(update={"intent": intent}))
        except Exception as error:
            raise JournalUnavailable(
                "that this task is about to pay could not be written down "
                f"({type(error).__name__}: {error}); nothing was submitted"
            ) from error
        return intent.short_id

    def no_job_made(self) -> None:
        """Take the intent back: the answer says that nothing was paid for."""
        self._write_if_possible(self.record.model_copy(update={"intent": None}))

    def paid(self, job: PaidJob) -> None:
        """A job exists. If that cannot be written down, it must not be lost for it: it is logged."""
        if self.record.intent is not None or job not in self.record.jobs:
            self._write_if_possible(self.record.with_job(job))

    def knows(self, job_id: str) -> bool:
        return self.record.intent is None and any(job.job_id == job_id for job in self.record.jobs)

    def is_delivering(self, job_id: str, output_path: str) -> bool:
        """Was this task instance bringing its file there when it died? Then what is there is its own."""
        return any(job.job_id == job_id and job.output_path == output_path for job in self.record.jobs)

    def delivering(self, job_id: str, output_path: str) -> None:
        """
        Write down that the file is about to be brought there.

        :raises JournalUnavailable: not written, so do not bring it: the next try would take the file for
            somebody else's. So ends a try that goes on beside its next one, after the scheduler's death.
        """
        known = next((job for job in self.record.jobs if job.job_id == job_id), PaidJob(job_id=job_id))
        bringing = known.model_copy(update={"output_path": output_path})
        try:
            _briefly()(self._write, self.record.with_job(bringing))
        except Exception as error:
            raise JournalUnavailable(
                f"that the file of job {job_id} is being brought to {output_path} could not be written down "
                f"({type(error).__name__}: {error}); it was not brought. It is paid for, and a retry is free",
                job_id=job_id,
                charged="yes",
            ) from error

    def ways_on(self, error: MagicHourError) -> MagicHourError:
        """The same error, with what a person can do now."""
        advice = f"let this task forget, so that it pays anew:\n  {self._store.forget_command()}\n"
        if isinstance(error, SubmissionUncertain):
            advice = (
                f"look for it in {LIBRARY_URL}. If it is there, adopt it (put its id for JOB_ID):\n"
                f"  {self._store.adopt_command()}\nIf it is not, {advice}"
            )
        text = f"{error}.\nTo go on, {advice}and then clear the task."
        return type(error)(text, status_code=error.status_code, job_id=error.job_id)

    def _write(self, record: Record) -> None:
        self._store.set(record.model_dump(mode="json", exclude_none=True))
        self.record = record

    def _write_if_possible(self, record: Record) -> None:
        try:
            _briefly()(self._write, record)
        except Exception:
            self.record = record
            log.exception(
                "Could not write down what this task has paid for: %s. The next try may not know it",
                record.model_dump(mode="json", exclude_none=True),
            )


def _briefly() -> tenacity.Retrying:
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_exponential(0.2), reraise=True
    )
