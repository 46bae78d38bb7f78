"""
Has this task instance paid already? This module alone decides whether to pay.

Before the paid call the task writes an *intent*, after it the *job*. Both survive the death of any process,
so the next try knows one of three things: nothing was sent, a job exists, or a call went out whose answer
was lost. The record belongs to one task instance (DAG run, task, map index); all its tries share it.

On Airflow 3.3 and newer the record is kept in the task state store, and never expires. There a second key
holds what was reported from outside (a webhook, a person): others write it, and the task only reads it. On
3.0 to 3.2 the record is an Airflow Variable, named by a hash of the task instance: best effort, and not
deleted by the task until an upgrade to Airflow 3.3 moves it to the task state store.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self
from urllib.parse import quote

import tenacity
from airflow.providers.common.compat.sdk import conf
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from magichour_provider.api.jobs import JobType
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
REPORTED_KEY = "magichour_reported"
JUST_CREATED = 600.0  # seconds in which the API may not know a job yet that it has just made
CLOCK_SKEW = 600.0  # seconds by which the vendor's clock may be behind ours
KEPT = 20  # jobs, and intents that are settled
# Seconds for which a write is repeated while Airflow's API server is away, before and after the paid call.
INTENT_PATIENCE = 60.0
LONGEST_PATIENCE = 1800.0

# What became of an intent. "refused" is the vendor's own word that no job was made, which only the next try
# believes; "adopted" and "paid_again" settle an intent whose answer was lost.
Outcome = Literal["open", "job", "no_job", "refused", "adopted", "paid_again"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Intent(_Entry):
    """The paid call is about to be sent. Its short id is in the job's name, by which the job can be found."""

    short_id: str
    try_number: int
    at: datetime
    max_tries: int | None = None
    inputs: dict[str, str] | None = None
    host: str | None = None
    conn_id: str | None = None
    job_type: JobType = "video"
    output_path: str | None = None
    estimated_credits: float | None = None
    name: str | None = None
    takes_name: bool = True
    outcome: Outcome = "open"
    job_id: str | None = None

    @property
    def mark(self) -> str:
        return mark(self.short_id)

    @property
    def how_to_find(self) -> str:
        """How a person finds its job in the vendor's library."""
        if not self.takes_name:
            return (
                "Such a job takes no name, so it cannot be found by one: it is the one that was made at "
                f"{self.at:%Y-%m-%d %H:%M:%S} UTC"
            )
        return f"The name of such a job ends in {self.mark}"

    def is_cleared_since(self, max_tries: int) -> bool:
        """Has a person cleared the task since? Airflow changes ``max_tries`` when a finished one is."""
        return self.max_tries not in (None, max_tries)


def mark(short_id: str) -> str:
    """The end of a job's name, by which a person or a webhook finds the task that paid for it."""
    return f"[mh-{short_id}]"


class Ending(_Entry):
    """How a job ended, and where its file is."""

    status: Literal["complete", "error", "canceled", "deleted"]
    at: datetime
    credits_charged: float | None = None
    duration_seconds: float | None = None
    width: int | None = None
    height: int | None = None
    size_bytes: int | None = None
    output_path: str | None = None
    error_code: str | None = None
    error_message: str | None = None


class PaidJob(_Entry):
    """
    A job that this task instance has paid for. Only ``job_id`` is required: a person may have adopted it.

    :ivar watched: a sensor's: another task paid for it.
    :ivar output_path: where its file is being written, or was written.
    """

    job_id: str = Field(min_length=1)
    watched: bool = False
    short_id: str | None = None
    job_type: JobType = "video"
    conn_id: str | None = None
    host: str | None = None
    inputs: dict[str, str] | None = None
    submitted_at: datetime | None = None
    credits_charged: float | None = None
    max_tries: int | None = None
    output_path: str | None = None
    ended: Ending | None = None

    def age(self, now: float) -> float:
        return now - self.submitted_at.timestamp() if self.submitted_at else float("inf")


class Report(_Entry):
    """
    What somebody outside says of an intent.

    :ivar anyway: a person adopts a job whose name does not carry the short id.
    :ivar pay_again: a person says that no job was made.
    """

    job_id: str | None = None
    conn_id: str | None = None
    at: datetime | None = None
    source: str = "command line"
    anyway: bool = False
    pay_again: bool = False

    def why_not(self, intent: Intent, job: Job) -> str | None:
        """Why this job is not the one that the intent paid for, or None if it is."""
        if self.conn_id is not None and self.conn_id != intent.conn_id:
            return f"it was reported for the connection {self.conn_id}, and paid for with {intent.conn_id}"
        if not self.anyway and not (job.name or "").rstrip().endswith(intent.mark):
            return f"its name does not end in {intent.mark}"
        created_at = _time(job.created_at)
        if created_at and created_at.timestamp() < intent.at.timestamp() - CLOCK_SKEW:
            return f"it was made at {job.created_at}, before the paid call was sent"
        return None


class Record(_Entry):
    """All that is known, oldest first."""

    version: Literal[1] = 1
    intents: tuple[Intent, ...] = ()
    jobs: tuple[PaidJob, ...] = ()

    @classmethod
    def of(cls, written: object) -> Record:
        """
        :raises JournalUnavailable: something is written there that cannot be read.
        """
        try:
            if isinstance(written, str):
                written = json.loads(written)
            if written is None:
                return cls()
            if not isinstance(written, dict):
                raise ValueError("not an object")  # noqa: TRY004, TRY301
            if "job_id" in written:  # by hand
                written = {"jobs": [written]}
            elif "intent" in written:  # before there was a list
                written = {"intents": [written["intent"]] if written["intent"] else [], **written}
            elif not written.keys() & cls.model_fields.keys():
                # A misspelt "job_id" must not read as "nothing is paid", though newer fields may be there.
                raise ValueError("no field is known")  # noqa: TRY301
            return cls.model_validate(written)
        except (ValueError, ValidationError) as error:
            raise JournalUnavailable(
                f"what is written under {KEY} cannot be read, so it is not known whether this task has paid; "
                'write {"job_id": "…"} there to adopt a job, or delete the key to pay again',
                retryable=False,
                charged="unknown",
            ) from error

    @property
    def lost(self) -> Intent | None:
        """The latest intent whose answer is not known."""
        return next((intent for intent in reversed(self.intents) if intent.outcome == "open"), None)

    @property
    def adoptable(self) -> list[Intent]:
        """Intents whose job may still be found, latest first: a refused one until another call has paid."""
        found: list[Intent] = []
        for intent in reversed(self.intents):
            if intent.outcome in ("job", "adopted"):
                break
            if intent.outcome in ("open", "refused"):
                found.append(intent)
        return found

    def job_for(self, inputs: Mapping[str, str]) -> PaidJob | None:
        """The job that was paid for these inputs; a job adopted by hand counts as paid for any inputs."""
        return next((job for job in reversed(self.jobs) if job.inputs in (None, dict(inputs))), None)

    def job(self, job_id: str) -> PaidJob | None:
        return next((job for job in self.jobs if job.job_id == job_id), None)

    def with_job(self, job: PaidJob) -> Record:
        others = [known for known in self.jobs if known.job_id != job.job_id]
        return self.model_copy(update={"jobs": (*others, job)[-KEPT:]})

    def with_intent(self, intent: Intent) -> Record:
        others = [known for known in self.intents if known.short_id != intent.short_id]
        settled = [known.short_id for known in others if known.outcome != "open"][: -KEPT + 1]
        kept = [known for known in others if known.short_id not in settled]
        ordered = sorted([*kept, intent], key=lambda known: known.at)
        return self.model_copy(update={"intents": tuple(ordered)})

    def settled(self, short_id: str | None, outcome: Outcome, job_id: str | None = None) -> Record:
        """The record in which this is what became of the intent."""
        intent = next((known for known in self.intents if known.short_id == short_id), None)
        if intent is None:
            return self
        return self.with_intent(intent.model_copy(update={"outcome": outcome, "job_id": job_id}))


def decide(
    record: Record,
    inputs: Mapping[str, str],
    *,
    host: str,
    max_tries: int,
    answer: Job | RequestFailed | None,
    now: float,
) -> PaidJob | None:
    """
    The job to resume, or None: nothing has been paid for that could be resumed, so submit.

    :param inputs: the fingerprint of what the task asks for now.
    :param max_tries: of the task instance now. Airflow raises it when a person clears a finished task.
    :param answer: the vendor's, when asked for ``record.job_for(inputs)``.
    :raises SubmissionUncertain: a call went out, and its outcome is not known.
    :raises JobMismatch: paid for other inputs, or on another host.
    :raises JobEnded: paid for, ended without a result, and the same input would end so again.
    """
    if record.lost is not None:
        raise _uncertain(record.lost)
    job = record.job_for(inputs)
    if job is None:
        if record.jobs and not _cleared_since(record.jobs[-1], max_tries):
            raise _other_inputs(record.jobs[-1], inputs)
        return None
    if job.host is not None and job.host != host:
        raise JobMismatch(
            f"this task has paid for job {job.job_id} on {job.host}, but its connection now names {host}; "
            "point the connection back to wait for the job",
            job_id=job.job_id,
            credits=job.credits_charged,
        )
    if isinstance(answer, NotFound) and answer.by_vendor and job.age(now) > JUST_CREATED:
        raise JobDeleted(
            f"job {job.job_id}, which this task has paid for, is not known to Magic Hour any more: it was "
            "deleted, or the connection's key now belongs to another account",
            job_id=job.job_id,
            status_code=answer.status_code,
            credits=job.credits_charged,
        )
    if not isinstance(answer, Job):
        return job  # cannot be asked now: wait for it, which asks until the deadline
    try:
        answer.raise_unless_complete()
    except (JobFailed, JobCanceled) as ended:
        if ended.retryable or _cleared_since(job, max_tries):
            return None  # refunded
        raise
    return job


def _cleared_since(job: PaidJob, max_tries: int) -> bool:
    """Has a person cleared the task since it paid for this job?"""
    return job.max_tries is not None and max_tries > job.max_tries


def _uncertain(intent: Intent) -> SubmissionUncertain:
    return SubmissionUncertain(
        f"try {intent.try_number} sent the paid call at {intent.at:%Y-%m-%d %H:%M:%S} UTC, and its answer "
        f"was not recorded: a job may have been made and charged. {intent.how_to_find}. If that try "
        "received a job id, its log has it",
        credits=intent.estimated_credits,
    )


def _other_inputs(job: PaidJob, inputs: Mapping[str, str]) -> JobMismatch:
    before = job.inputs or {}
    changed = sorted(field for field in {*before, *inputs} if before.get(field) != inputs.get(field))
    return JobMismatch(
        f"this task has paid for job {job.job_id} with other inputs: {', '.join(changed)} changed "
        "between two tries. A retry never pays again by itself: clear the task to pay for the new inputs, "
        "or wait for the paid job with a sensor",
        job_id=job.job_id,
        credits=job.credits_charged,
    )


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


# --- where it is kept ---


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

    ``Variable.get`` reports any failure as "missing". So the supervisor is asked directly: an error must not
    be taken for an empty record.
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


class Journal:
    """
    The record of one task instance: read once, then written through.

    :param patience: seconds for which a job is written again while Airflow's API server does not answer.
    """

    def __init__(
        self, store: Store, *, try_number: int, max_tries: int, patience: float = LONGEST_PATIENCE
    ) -> None:
        """
        :raises JournalUnavailable: could not be read; nothing was sent.
        """
        self._store = store
        self._patience = patience
        self.try_number = try_number
        self.max_tries = max_tries
        try:
            written = store.get()
        except Exception as error:
            raise JournalUnavailable(
                f"the record of what this task has paid for could not be read ({_briefly(error)}); "
                "nothing was submitted, and a retry reads it again"
            ) from error
        self.record = Record.of(written)

    @classmethod
    def of(cls, context: Any, *, patience: float = LONGEST_PATIENCE) -> Self:
        """The journal of the task instance that is running."""
        ti = context["ti"]
        if "task_state_store" in context:
            if conf.getboolean("state_store", "clear_on_success", fallback=False):
                log.warning(
                    "[state_store] clear_on_success is on: a task cleared after its success pays again"
                )
            store: Store = TaskStateStore(context)
        else:
            store = VariableStore(context)
        return cls(store, try_number=ti.try_number, max_tries=ti.max_tries, patience=patience)

    def reports(self, intent: Intent) -> list[Report]:
        """
        What was reported of this intent from outside, the first report first.

        An unreadable report is not believed, and does not hide the others.
        """
        try:
            reported = self._store.get_reported()
        except Exception as error:
            raise JournalUnavailable(
                f"what was reported of this task's jobs could not be read ({_briefly(error)}); "
                "nothing was submitted, and a retry reads it again"
            ) from error
        entries = reported.get(intent.short_id) if isinstance(reported, dict) else None
        found = []
        for entry in entries if isinstance(entries, list) else [entries]:
            try:
                found.append(Report.model_validate({"job_id": entry} if isinstance(entry, str) else entry))
            except ValidationError:
                continue
        return found

    def record_intent(self, *, name: str | None, **details: Any) -> Intent:
        """
        Write down that the paid call is about to be sent.

        :param name: of the job; the mark of the intent is added to it. None: it takes no name.
        :param details: fields of ``Intent``.
        :raises JournalUnavailable: not written, so do not send; nothing charged.
        """
        short_id = uuid.uuid4().hex[:8]
        intent = Intent(
            short_id=short_id,
            name=None if name is None else f"{name} {mark(short_id)}",
            takes_name=name is not None,
            try_number=self.try_number,
            max_tries=self.max_tries,
            at=datetime.now(UTC),
            **details,
        )
        try:
            self._write(self.record.with_intent(intent), patience=INTENT_PATIENCE)
        except Exception as error:
            raise JournalUnavailable(
                f"that this task is about to pay could not be recorded ({_briefly(error)}); "
                "nothing was submitted"
            ) from error
        return intent

    def settle(self, intent: Intent, outcome: Outcome) -> None:
        """Write down what became of an intent that did not get a job."""
        self._write_if_possible(self.record.settled(intent.short_id, outcome))

    def record_job(self, job: PaidJob, outcome: Outcome = "job") -> bool:
        """
        Write down a job that is paid for.

        :param outcome: of the intent that has its short id.
        :returns: False when it could not be written: the next try will not know it.
        """
        return self._write_if_possible(self.record.settled(job.short_id, outcome, job.job_id).with_job(job))

    def has_job(self, job_id: str) -> bool:
        return self.record.lost is None and self.record.job(job_id) is not None

    def is_own_delivery(self, job_id: str, output_path: str) -> bool:
        """Did an earlier try of this task instance begin to write this file? Then the file is its own."""
        job = self.record.job(job_id)
        return job is not None and job.output_path == output_path

    def record_delivery(self, job_id: str, output_path: str) -> None:
        """
        Write down that the file is about to be written there.

        :raises JournalUnavailable: not recorded, so do not download: the next try could not tell that the
            file is its own. This also stops an abandoned try that runs beside the next one.
        """
        job = self.record.job(job_id) or PaidJob(job_id=job_id, watched=True)
        try:
            self._write(self.record.with_job(job.model_copy(update={"output_path": output_path})))
        except Exception as error:
            raise JournalUnavailable(
                f"that job {job_id} is about to be downloaded to {output_path} could not be recorded "
                f"({_briefly(error)}), so it was not downloaded",
                job_id=job_id,
                charged="yes",
            ) from error

    def record_end(self, job_id: str, ending: Ending) -> None:
        """Write down how the job ended, once: nothing depends on it."""
        job = self.record.job(job_id) or PaidJob(job_id=job_id, watched=True)
        self.record = self.record.with_job(job.model_copy(update={"ended": ending}))
        self._store.set(_dumped(self.record))

    def with_instructions(self, error: MagicHourError) -> MagicHourError:
        """The same error, with what a person can do now."""
        lost = self.record.lost
        if isinstance(error, SubmissionUncertain) and lost is not None:
            adopt = self._store.adopt_command(lost.short_id, "JOB_ID", anyway=not lost.takes_name)
            report = {"job_id": "JOB_ID"} | ({} if lost.takes_name else {"anyway": True})
            steps = (
                f"Search {LIBRARY_URL} for it. {lost.how_to_find}.\n"
                "If it is there, adopt it, free of charge (replace JOB_ID by its id):\n"
                f"  {adopt}\n"
                "If it is not there, allow this task to pay again:\n"
                f"  {self._store.pay_again_command(lost.short_id)}\n"
                "Then clear the task. In Airflow's UI the same is done on the task's page, under Task State "
                f"Store: key {REPORTED_KEY}, value {{{json.dumps(lost.short_id)}: [{json.dumps(report)}]}} "
                'or [{"pay_again": true}].'
            )
        else:
            steps = (
                "To let this task forget its job, so that it pays again:\n"
                f"  {self._store.pay_again_command(None)}\nThen clear the task."
            )
        return error.copied(f"{error}.\n{steps}")

    def adopt_instructions(self, job: PaidJob) -> str:
        """How a person records a job that this task could not record."""
        return self._store.adopt_command(job.short_id or "", job.job_id)

    def _write(self, record: Record, patience: float = LONGEST_PATIENCE) -> None:
        """Write until it is written: Airflow's API server may be restarting."""
        tenacity.Retrying(
            stop=tenacity.stop_after_delay(min(patience, self._patience, LONGEST_PATIENCE)),
            wait=tenacity.wait_exponential(0.2, max=15) + tenacity.wait_random(0, 0.5),
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )(self._store.set, _dumped(record))
        self.record = record

    def _write_if_possible(self, record: Record) -> bool:
        try:
            self._write(record)
        except Exception:
            log.exception(
                "Could not record what this task has paid for: %s. The next try will not know it",
                _dumped(record),
            )
            return False
        return True


def _dumped(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_none=True)


def _may_pass(error: BaseException) -> bool:
    """A 404 does not: this task instance was cleared while it ran, and has a new id."""
    detail = getattr(getattr(error, "error", None), "detail", None)
    gone = isinstance(detail, dict) and detail.get("status_code") == 404
    return isinstance(error, Exception) and not gone


def _briefly(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
