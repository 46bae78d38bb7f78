"""``PaidJobOperator``: the order in which a job is paid for once, whatever it makes."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator, conf

from magichour_provider.exceptions import (
    CreditLimitExceeded,
    InsufficientCredits,
    InvalidInput,
    JobDeleted,
    JobMismatch,
    MagicHourError,
    RequestFailed,
    SubmissionUncertain,
)
from magichour_provider.task.wait import JobMixin, as_airflow_errors, event_job_id

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.api.inputs import Inputs
    from magichour_provider.api.wire import Call, Job, Submission
    from magichour_provider.task.journal import Journal, PaidJob

InputsT = TypeVar("InputsT", bound="Inputs")


class PaidJobOperator(JobMixin, BaseOperator, Generic[InputsT]):
    """
    What the operators share. A retry never pays again: it finds the job that was paid for, or stops and says
    what is unknown. So ``retries`` is safe, and worth setting.

    A subclass names its ``input_fields``, and says how they are checked, completed and sent.

    :param output_path: where the file goes, local or object storage; ending in ``/`` it is a folder and the
        file is named after the job. Without it the result holds a signed URL that expires.
    :param replace: overwrite a file at ``output_path``. Without it, one that is there is an error before
        anything is paid.
    :param max_credits: refuse to submit (and to upload) when the estimate is above this, in credits. May come
        from a template.
    :param magichour_conn_id: the Airflow connection.
    :param deferrable: wait in the triggerer, without a worker slot; default: Airflow's
        ``[operators] default_deferrable``.
    :param wait_for_completion: if False, return as soon as the job is submitted.
    :param timeout: seconds to wait, for each try. The job goes on afterwards; a retry picks it up.
    :param poll_interval: seconds between two looks; default: the connection's, or timed from render times.
    :param multiple_outputs: each value of the result is an XCom of its own too, so that
        ``task.output["job_id"]`` works.
    :raises AirflowFailException: what no retry can mend: invalid input, 400-403 and 422 (nothing charged), a
        permanent job error (refunded), or ``SubmissionUncertain`` (charged? not known: it says what to do).
    :raises AirflowException: the rest; a retry costs nothing unless the last job was refunded.
    """

    input_fields: ClassVar[tuple[str, ...]]
    name: str | None
    ui_color = "#efe7fb"

    def __init__(
        self,
        *,
        output_path: str | None = None,
        replace: bool = False,
        max_credits: float | str | None = None,
        magichour_conn_id: str = "magichour_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        wait_for_completion: bool = True,
        timeout: float | timedelta = 3600,
        poll_interval: float | None = None,
        multiple_outputs: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=multiple_outputs, **kwargs)
        self.output_path = output_path
        self.replace = replace
        self.max_credits = max_credits
        self._limited = max_credits is not None
        self.magichour_conn_id = magichour_conn_id
        self.deferrable = deferrable
        self.wait_for_completion = wait_for_completion
        self.timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self.poll_interval = poll_interval

    def checked(self, values: Mapping[str, object], *, unknown: Collection[str] = ()) -> InputsT:
        """See ``Inputs.checked``."""
        raise NotImplementedError

    def complete(self, inputs: InputsT) -> InputsT:
        """What was left out on purpose, and can be found out, free of charge. Not when a job is taken up."""
        return inputs

    def paid_call(self, inputs: InputsT, uploaded: Mapping[str, str], name: str) -> Call[Submission]:
        """
        The call that pays.

        :param uploaded: the ``api-assets/`` paths of ``inputs.uploads()``.
        """
        raise NotImplementedError

    def validate_static_fields(self) -> None:
        """At DAG parse: everything but what a template or another task will say."""
        later = {field for field in self.input_fields if _is_known_later(getattr(self, field))}
        self.checked({field: getattr(self, field) for field in self.input_fields}, unknown=later)
        self.refuse_blank("output_path", "magichour_conn_id")
        for field in ("timeout", "poll_interval"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
                raise InvalidInput.of(field, value, "must be a number above 0")
        if not _is_known_later(self.max_credits):
            self._credit_limit()

    def execute(self, context: Context) -> dict[str, Any]:
        from magichour_provider.task.journal import Journal

        with as_airflow_errors():
            journal = Journal.of(context)
            inputs = self._inputs()
            taken_up = self._take_up(journal, inputs)
            job = taken_up or self._submit(journal, inputs)
            self.push_link(context, job.job_id)
            if not self.wait_for_completion:
                return {"job_id": job.job_id, "status": "queued", "credits_charged": job.credits_charged}
            return self._wait(context, job, just_submitted=taken_up is None)

    def _inputs(self) -> InputsT:
        self.refuse_blank("output_path", "magichour_conn_id")
        return self.checked({field: getattr(self, field) for field in self.input_fields})

    def _take_up(self, journal: Journal, inputs: InputsT) -> PaidJob | None:
        """The job that was paid for already. The input files are not touched: they may be gone by now."""
        from magichour_provider.task.journal import decide

        fingerprint = inputs.fingerprint()
        known = journal.record.job_for(fingerprint)
        host = self.hook.settings.base_url
        try:
            job = decide(
                journal.record,
                fingerprint,
                host=host,
                max_tries=journal.max_tries,
                said=self._ask(known.job_id) if known else None,
                now=time.time(),
            )
        except (SubmissionUncertain, JobDeleted, JobMismatch) as error:
            raise journal.ways_on(error) from error
        if job is None:
            return None
        self.log.info("Job %s was paid for by an earlier try: taking it up, nothing is paid", job.job_id)
        # An adopted job is completed with what is now known of it.
        # From now on only another Clear counts as a person's.
        known_now = {"host": host, "inputs": fingerprint, "max_tries": journal.max_tries}
        job = job.model_copy(update=known_now)
        journal.paid(job)
        return job

    def _ask(self, job_id: str) -> Job | RequestFailed:
        try:
            return self.hook.get(job_id, job_type=self.job_type)
        except RequestFailed as error:
            return error

    def _submit(self, journal: Journal, inputs: InputsT) -> PaidJob:
        from magichour_provider import telemetry

        whole, uploaded = self._prepare(inputs)
        client = self.hook.client  # what can fail before the paid call, fails before the intent
        short_id = journal.intend()
        self.name = f"{inputs.name or f'{self.dag_id}.{self.task_id}'} [mh-{short_id}]"
        try:
            submission = client.submit(self.paid_call(whole, uploaded, self.name))
        except SubmissionUncertain as error:
            raise journal.ways_on(error) from error
        except MagicHourError as error:
            journal.no_job_made()
            if isinstance(error, InsufficientCredits):
                raise self._with_balance(error, whole) from error
            raise
        self._job_id = submission.job_id
        job = self._paid_job(submission.job_id, inputs, journal, submission.credits_charged)
        self.log.info(
            "Submitted job %s [mh-%s], %s credits charged (an estimate until it is complete)",
            *(submission.job_id, short_id, submission.credits_charged),
        )
        journal.paid(job)
        telemetry.submitted(submission.credits_charged)
        return job

    def _prepare(self, inputs: InputsT) -> tuple[InputsT, dict[str, str]]:
        """All that comes before the paid call, is free, and may be repeated; the last of it is the upload."""
        from magichour_provider.files.media import check_media_type
        from magichour_provider.files.storage import Source, Target

        if self.output_path is not None:
            Target(str(self.output_path), self.replace).check()
        sources = [
            Source.find(field, media_type, getattr(inputs, field))
            for field, media_type in inputs.uploads().items()
        ]
        for source in sources:
            check_media_type(source)
        inputs = self.complete(inputs)
        for warning in inputs.warnings():
            self.log.warning(warning)
        estimate = inputs.estimated_credits
        if estimate > self._credit_limit():
            raise CreditLimitExceeded(
                f"max_credits={self.max_credits}: {inputs.description} is estimated at {estimate} credits; "
                "raise the limit or shorten it. Nothing was submitted"
            )
        if not sources:
            return inputs, {}
        self.log.info("Uploading %s", " and ".join(f"{s.uri} ({s.size} bytes)" for s in sources))
        paths = self.hook.client.upload(sources)
        return inputs, {source.field: path for source, path in zip(sources, paths, strict=True)}

    def _credit_limit(self) -> float:
        """A template or a task that gives nothing, or no number, is no "no limit"."""
        if self.max_credits is None and not self._limited:
            return float("inf")
        try:
            limit = float(self.max_credits or 0)
        except (TypeError, ValueError):
            limit = 0.0
        if limit > 0:
            return limit
        raise InvalidInput.of("max_credits", self.max_credits, "must be a number above 0")

    def _paid_job(
        self, job_id: str, inputs: InputsT, journal: Journal, credits_charged: float | None = None
    ) -> PaidJob:
        from magichour_provider.task.journal import PaidJob

        return PaidJob(
            job_id=job_id,
            credits_charged=credits_charged,
            submitted_at=datetime.now(UTC),
            host=self.hook.settings.base_url,
            inputs=inputs.fingerprint(),
            max_tries=journal.max_tries,
        )

    def _with_balance(self, error: InsufficientCredits, inputs: InputsT) -> InsufficientCredits:
        try:
            left: object = self.hook.account().credits
        except MagicHourError:
            left = "an unknown number of"
        return InsufficientCredits(
            f"{error}. The account has {left} credits, {inputs.description} needs about "
            f"{inputs.estimated_credits}",
            status_code=error.status_code,
        )

    def _wait(self, context: Context, job: PaidJob, *, just_submitted: bool) -> dict[str, Any]:
        from magichour_provider.telemetry import PollObserver

        how: dict[str, Any] = {
            "deadline": self.deadline(),
            "submitted_at": time.time() if just_submitted else None,
            "poll_interval": self.poll_interval,
        }
        if self.deferrable:
            self.defer_until_ended(job.job_id, **how)
        progress = PollObserver(self.log, self.job_type, from_the_start=just_submitted)
        self.hook.client.wait(job.job_id, self.job_type, **how, listener=progress)
        return self.collect_result(context, job.job_id)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """Resumed by the trigger: if the job could not be written down before, it is now."""
        from magichour_provider.task.journal import Journal

        with as_airflow_errors():
            journal = Journal.of(context)
            job_id = event_job_id(event)
            if not journal.knows(job_id):
                journal.paid(self._paid_job(job_id, self._inputs(), journal))
            self._job_id = job_id
        return super().execute_complete(context, event)

    def job_name(self, context: Context) -> str:
        from magichour_provider.task.journal import Journal

        try:
            jobs = Journal.of(context).record.jobs
        except MagicHourError:
            return "its job"
        return f"job {jobs[-1].job_id}" if jobs else "its job"


def _is_known_later(value: object) -> bool:
    """A template, or what Airflow resolves at run time: an XCom, a mapped argument, a DAG's param."""
    return hasattr(value, "iter_references") or (isinstance(value, str) and ("{{" in value or "{%" in value))
