"""The journal: the record of one task instance, read once and written through. All its tries share it."""

from __future__ import annotations

import json
import logging
import uuid
from datetime import UTC, datetime
from typing import Any, Self

import tenacity

from magichour_provider.api.events import mark
from magichour_provider.api.wire import LIBRARY_URL
from magichour_provider.exceptions import JournalUnavailable, MagicHourError, SubmissionUncertain
from magichour_provider.task.errors import Bill
from magichour_provider.task.record import Ending, Intent, Outcome, PaidJob, Record, Report
from magichour_provider.task.stores import REPORTED_KEY, Store, TaskStateStore, VariableStore
from magichour_provider.text import clean

log = logging.getLogger(__name__)

# Seconds for which a write is repeated while Airflow's API server is down. If the outcome of a paid call is
# not written, a person must act, so this write is worth a worker slot for long. Any other write can be left
# to the next try.
WRITE_TIMEOUT = 60.0
OUTCOME_WRITE_TIMEOUT = 1800.0


class Journal:
    """
    The journal of the task instance that runs.

    :ivar record: what it contains.
    """

    def __init__(self, store: Store, *, try_number: int, max_tries: int) -> None:
        """
        :raises JournalUnavailable: the record cannot be read; nothing was sent.
        """
        self._store = store
        self.try_number = try_number
        self.max_tries = max_tries
        try:
            written = store.get()
        except Exception as error:
            raise JournalUnavailable(
                f"the record of what this task has paid for could not be read ({_briefly(error)}); "
                "this try has submitted nothing, and a retry reads it again"
            ) from error
        self.record = Record.of(written)

    @classmethod
    def of(cls, context: Any) -> Self:
        """The journal of the task instance that is running."""
        ti = context["ti"]
        store: Store = (TaskStateStore if "task_state_store" in context else VariableStore)(context)
        return cls(store, try_number=ti.try_number, max_tries=ti.max_tries)

    def reports(self, intent: Intent) -> list[Report]:
        """What others have reported about this intent, the oldest report first."""
        try:
            reported = self._store.get_reported()
        except Exception as error:
            raise JournalUnavailable(
                f"the reports about this task's jobs could not be read ({_briefly(error)}); "
                "this try has submitted nothing, and a retry reads it again"
            ) from error
        return Report.all_of(reported, intent.short_id)

    def record_intent(self, *, name: str | None, **details: Any) -> Intent:
        """
        Write down that the paid call is about to be sent.

        :param name: of the job; the mark of the intent is added to it. None: such a job takes no name.
        :param details: fields of ``Intent``.
        :raises JournalUnavailable: the intent was not written, so do not send the call; nothing charged.
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
            self._write(self.record.with_intent(intent))
        except Exception as error:
            raise JournalUnavailable(
                f"could not record that this task is about to pay ({_briefly(error)}); nothing was submitted"
            ) from error
        return intent

    def settle(self, intent: Intent, outcome: Outcome) -> None:
        """Write down the outcome of an intent that did not get a job."""
        self._write_if_possible(self.record.with_outcome(intent.short_id, outcome), OUTCOME_WRITE_TIMEOUT)

    def record_job(self, job: PaidJob, outcome: Outcome = "job") -> bool:
        """
        Write down a job that is paid for.

        :param outcome: of the intent that has its short id.
        :returns: False if it could not be written: then the next try does not know the job.
        """
        is_new = outcome == "job" and self.record.job(job.job_id) is None
        record = self.record.with_outcome(job.short_id, outcome, job.job_id).with_job(job)
        return self._write_if_possible(record, OUTCOME_WRITE_TIMEOUT if is_new else None)

    def is_own_delivery(self, job_id: str, output_path: str) -> bool:
        """Did an earlier try of this task instance begin to write this file? Then a file there is its own."""
        job = self.record.job(job_id)
        return job is not None and job.output_path == output_path

    def record_delivery(self, job: PaidJob, output_path: str) -> None:
        """
        Write down that the file of a job is about to be written there.

        :raises JournalUnavailable: not recorded, so do not download: the next try would not know that the
            file is its own. This also stops a try that Airflow gave up, and that still runs beside the next.
        """
        try:
            self._write(self.record.with_job(job.model_copy(update={"output_path": output_path})))
        except Exception as error:
            raise JournalUnavailable(
                f"could not record that job {job.job_id} is about to be downloaded to {output_path} "
                f"({_briefly(error)}), so it was not downloaded",
                job_id=job.job_id,
                charged="yes",
            ) from error

    def record_end(self, job: PaidJob, ending: Ending) -> None:
        """Write down how a job ended. The write is not repeated, since nothing depends on it."""
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

    def bill(self) -> Bill:
        """What this task instance has paid so far."""
        if lost := self.record.lost:
            return Bill("unknown", lost.estimated_credits)
        if self.record.paid and not (job := self.record.paid[-1]).is_refunded:
            return Bill("yes", job.credits_charged, job.job_id)
        return Bill()

    def adopt_command(self, job: PaidJob) -> str:
        """The command with which a person records a job that this task could not record."""
        nameless = {intent.short_id for intent in self.record.intents if not intent.takes_name}
        return self._store.adopt_command(job.short_id or "", job.job_id, anyway=job.short_id in nameless)

    def _write(self, record: Record, timeout: float | None = None) -> None:
        """Write, and repeat a failed write for a while: Airflow's API server may be restarting."""
        tenacity.Retrying(
            stop=tenacity.stop_after_delay(WRITE_TIMEOUT if timeout is None else timeout),
            wait=tenacity.wait_exponential(0.2, max=15) + tenacity.wait_random(0, 0.5),
            retry=tenacity.retry_if_exception(_is_transient),
            reraise=True,
        )(self._store.set, _dumped(record))
        self.record = record

    def _write_if_possible(self, record: Record, timeout: float | None = None) -> bool:
        try:
            self._write(record, timeout)
        except Exception:
            log.exception(
                "The journal could not be written, so the next try does not know all of this: %s",
                _dumped(record),
            )
            return False
        return True


def _dumped(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_none=True)


def _is_transient(error: BaseException) -> bool:
    """Can a repeated write succeed? Not after a 404: the running task was cleared, and has a new id."""
    detail = getattr(getattr(error, "error", None), "detail", None)
    gone = isinstance(detail, dict) and detail.get("status_code") == 404
    return isinstance(error, Exception) and not gone


def _briefly(error: Exception) -> str:
    return f"{type(error).__name__}: {clean(str(error))}"
