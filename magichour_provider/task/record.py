"""
What a task instance has paid for, and whether it may pay. Only this module makes that decision.

Before the paid call the task writes an *intent*, after it the *job*. Both survive the death of any process.
So the next try knows one of three things: nothing was sent; a job exists; or the call may have been sent, and
its answer was lost. Nothing here reads or writes: see ``journal``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from magichour_provider.api.events import mark, short_id_of
from magichour_provider.api.jobs import JobType
from magichour_provider.api.models import Job
from magichour_provider.api.watching import JUST_CREATED
from magichour_provider.exceptions import (
    JobCanceled,
    JobDeleted,
    JobFailed,
    JobMismatch,
    JournalUnavailable,
    NotFound,
    RequestFailed,
    SubmissionUncertain,
)

KEY = "magichour_journal"  # the key of the record in Airflow's store
CLOCK_SKEW = 600.0  # seconds by which the vendor's clock may be behind ours
# Seconds from the last moment at which a call may be sent to its job: the call itself, and the vendor's clock
# ahead of ours.
MAX_SUBMIT_SECONDS = 3600.0
KEPT = 20  # jobs, and intents that are settled

# The outcome of an intent. "refused": the API answered 502 or 503 and says that no job was made. This try
# fails, and the next try may submit again. "adopted" and "paid_again" settle an intent whose answer was lost.
Outcome = Literal["open", "job", "no_job", "refused", "adopted", "paid_again"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Intent(_Entry):
    """The paid call is about to be sent. Its short id is in the job's name, so a person can find the job."""

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
    rate_limit_timeout: float = 0.0  # seconds for which the call may be repeated before the API takes it
    name: str | None = None
    takes_name: bool = True
    outcome: Outcome = "open"
    job_id: str | None = None

    @property
    def mark(self) -> str:
        return mark(self.short_id)

    @property
    def how_to_find(self) -> str:
        """How a person finds the job in the vendor's library, as a sentence without a full stop."""
        if not self.takes_name:
            return (
                "Jobs of this tool have no name. Look for the job that was created at "
                f"{self.at:%Y-%m-%d %H:%M:%S} UTC"
            )
        return f"The name of such a job ends in {self.mark}"

    def made(self, job_id: str, *, at: datetime, credits_charged: float | None) -> PaidJob:
        """The job that this call has made."""
        return PaidJob(
            job_id=job_id,
            short_id=self.short_id,
            job_type=self.job_type,
            conn_id=self.conn_id,
            host=self.host,
            inputs=self.inputs,
            submitted_at=at,
            credits_charged=credits_charged,
            max_tries=self.max_tries,
        )

    def is_cleared_since(self, max_tries: int) -> bool:
        """Has a person cleared the task since? Airflow then changes the ``max_tries`` of a finished task."""
        return self.max_tries not in (None, max_tries)


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

    @property
    def is_refunded(self) -> bool:
        return self.status in ("error", "canceled")


class PaidJob(_Entry):
    """
    A job that this task instance has paid for. Only ``job_id`` is required: a person may have adopted it.

    :ivar watched: the record is a sensor's, and another task paid for the job.
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

    @property
    def is_refunded(self) -> bool:
        return self.ended is not None and self.ended.is_refunded

    def recent_submission_time(self, now: float) -> float | None:
        """When it was submitted, in seconds since the epoch, while the API may not know it yet."""
        return self.submitted_at.timestamp() if self.submitted_at and self.age(now) < JUST_CREATED else None


class Report(_Entry):
    """
    What a webhook or a person says about an intent.

    :ivar anyway: a person adopts a job although its name does not have the short id.
    :ivar pay_again: a person says that no job was made.
    """

    job_id: str | None = None
    conn_id: str | None = None
    at: datetime | None = None
    source: str = "command line"
    anyway: bool = False
    pay_again: bool = False

    @classmethod
    def all_of(cls, reported: object, short_id: str) -> list[Self]:
        """
        The reports about one intent, the oldest first.

        An unreadable report is not believed, and does not hide the others.
        """
        entries = reported.get(short_id) if isinstance(reported, dict) else None
        found = []
        for entry in entries if isinstance(entries, list) else [entries]:
            with suppress(ValidationError):
                found.append(cls.model_validate({"job_id": entry} if isinstance(entry, str) else entry))
        return found

    def says_the_same_as(self, other: Report) -> bool:
        return (self.job_id, self.pay_again) == (other.job_id, other.pay_again)

    def why_not(self, intent: Intent, job: Job) -> str | None:
        """Why this job is not the one that the intent paid for, or None if it is."""
        if self.conn_id is not None and self.conn_id != intent.conn_id:
            return f"it was reported for the connection {self.conn_id}, and paid for with {intent.conn_id}"
        # A signed webhook event had the right name, even if the API's answer has no name.
        is_signed = self.source == "webhook" and job.name is None
        if short_id_of(job.name or "") != intent.short_id and not self.anyway and not is_signed:
            return f"its name does not end in {intent.mark}"
        created_at = job.creation_time
        if created_at is not None and created_at < intent.at.timestamp() - CLOCK_SKEW:
            return f"it was made at {job.created_at}, before the paid call was sent"
        latest = intent.at.timestamp() + intent.rate_limit_timeout + MAX_SUBMIT_SECONDS
        if created_at is not None and created_at > latest and not self.anyway:
            return f"it was made at {job.created_at}, long after the paid call was sent"
        return None


class Record(_Entry):
    """All that is known about a task instance, oldest first."""

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
            elif "intent" in written:  # an early version wrote one intent, and no list
                written = {"intents": [written["intent"]] if written["intent"] else [], **written}
            elif not written.keys() & cls.model_fields.keys():
                # A misspelt "job_id" must not mean "nothing is paid". But unknown newer fields are allowed.
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
        """
        Intents whose job may still be found, latest first.

        These are the open, refused and paid_again intents that are newer than the latest intent with a job.
        """
        found: list[Intent] = []
        for intent in reversed(self.intents):
            if intent.outcome in ("job", "adopted"):
                break
            if intent.outcome in ("open", "refused", "paid_again"):
                found.append(intent)
        return found

    def job_for(self, inputs: Mapping[str, str]) -> PaidJob | None:
        """The job that was paid for these inputs; a job adopted by hand counts as paid for any inputs."""
        return next((job for job in reversed(self.paid) if job.inputs in (None, dict(inputs))), None)

    @property
    def paid(self) -> tuple[PaidJob, ...]:
        """The jobs of this task, without those that it only waited for when it was a sensor."""
        return tuple(job for job in self.jobs if not job.watched)

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

    def with_outcome(self, short_id: str | None, outcome: Outcome, job_id: str | None = None) -> Record:
        """The record with this outcome of the intent."""
        intent = next((known for known in self.intents if known.short_id == short_id), None)
        if intent is None or (intent.outcome == "adopted" and intent.job_id == job_id):
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
    The job to resume, or None: there is no paid job that can be resumed, so submit.

    :param inputs: the fingerprint of what the task asks for now.
    :param max_tries: of the task instance now. Airflow raises it when a person clears a finished task.
    :param answer: the vendor's, when asked for ``record.job_for(inputs)``.
    :raises SubmissionUncertain: the paid call may have been sent, and its outcome is not known.
    :raises JobMismatch: paid for other inputs, or on another host.
    :raises JobEnded: the paid job has made nothing, and the same input would end in the same way.
    """
    if record.lost is not None:
        raise _uncertain(record.lost)
    job = record.job_for(inputs)
    if job is None:
        if record.paid and not _cleared_since(record.paid[-1], max_tries):
            raise _other_inputs(record.paid[-1], inputs)
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
        return job  # the API does not answer now; the wait polls until the deadline
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
