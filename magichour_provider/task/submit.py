"""``PaidJobOperator``: the steps of a task that pays once."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator

from magichour_provider import task as runtime
from magichour_provider.task.wait import JobMixin, ending_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.api.client import MagicHourClient
    from magichour_provider.api.inputs import Inputs
    from magichour_provider.api.models import Job, Submission
    from magichour_provider.exceptions import MagicHourError, RequestFailed
    from magichour_provider.task.arguments import Check, Notifier
    from magichour_provider.task.journal import Journal
    from magichour_provider.task.lost_answer import LostAnswers
    from magichour_provider.task.record import Intent, PaidJob

InputsT = TypeVar("InputsT", bound="Inputs")

MAX_NAME = 200  # characters before the mark, which must not be truncated


class PaidJobOperator(JobMixin, BaseOperator, Generic[InputsT]):
    """
    What the operators share. A retry never pays again: it finds the job that was paid for, or it stops and
    says what is unknown. So set ``retries``: they are safe.

    A subclass names its ``input_fields``, and defines how they are checked and completed.

    For each argument, None stands for the default.

    .. versionadded:: 0.1.0

    :param output_path: where the file goes, local or object storage. A path that ends in ``/`` is a folder,
        and the file is named after the job. Without a path, the result has a signed URL that expires.
        Templated.
    :param replace: overwrite a file at ``output_path``. If False, a file there is an error before anything is
        paid. Templated.
    :param max_credits: refuse to upload and to submit if the estimate is above this, in credits.
        Templated.
    :param magichour_conn_id: the Airflow connection. Templated.
    :param deferrable: wait in the triggerer, without a worker slot; default: Airflow's
        ``[operators] default_deferrable``.
    :param wait_for_completion: if False, return as soon as the job is submitted.
    :param timeout: seconds to wait, for each try; default 3600. After that the job continues, and a retry
        picks it up. Templated.
    :param poll_interval: seconds between two polls; default: the connection's, or chosen from render times.
        Templated.
    :param rate_limit_timeout: seconds for which an upload or the paid call is repeated while the API answers
        429 (too many requests); default 300, 0 is off.
    :param multiple_outputs: each value of the result is an XCom of its own too, so that
        ``task.output["job_id"]`` works.
    :param report_timeout: how long the task waits for a webhook event after a lost answer, in seconds since
        the paid call; default 900, 0 is off. Needs a connection with webhooks.
    :param question_timeout: after a lost answer, and after the task was cleared: seconds to wait for a
        person's answer to the task's question; default 43200 (12 h). Needs Airflow 3.3.
    :param question_notifiers: Airflow's notifiers, or functions. They are called with the context when the
        task asks this question, because Airflow calls no callback of a task that waits for an answer.
    :param assigned_users: who may answer the question, ``{"id": …, "name": …}`` each; default: all who may
        edit task instances of the DAG.
    :raises MagicHourError: every error is also an Airflow exception. An error that no retry
        can overcome is an ``AirflowFailException``: invalid input, a refused request such as HTTP 402 or 422
        (nothing charged), a permanent job error (refunded), ``SubmissionUncertain`` (it is not known whether
        it was charged; the message says what to do). The other errors use the task's retries. A retry
        submits again only if the last job was refunded, or if the paid call made no job.
    """

    input_fields: ClassVar[tuple[str, ...]]
    shared_template_fields: ClassVar[tuple[str, ...]] = (
        "output_path",
        "replace",
        "max_credits",
        "magichour_conn_id",
        "timeout",
        "poll_interval",
    )
    name: str | None
    rate_limit_timeout: float
    report_timeout: float
    question_timeout: float
    question_notifiers: list[Notifier]
    assigned_users: list[dict[str, str]]
    _render_profile: tuple[str | None, float | None] = (None, None)  # not known for a resumed job
    _is_paused = False
    _has_reserved = False
    sent_at = 0.0  # when this try last sent the paid call, in seconds since the epoch
    ui_color = "#efe7fb"

    def __init__(
        self,
        *,
        output_path: str | None = None,
        replace: bool | str | None = None,
        max_credits: float | str | None = None,
        magichour_conn_id: str | None = None,
        deferrable: bool | None = None,
        wait_for_completion: bool | None = None,
        timeout: float | timedelta | str | None = None,
        poll_interval: float | timedelta | str | None = None,
        multiple_outputs: bool = True,
        rate_limit_timeout: float | timedelta | None = None,
        report_timeout: float | timedelta | None = None,
        question_timeout: float | timedelta | None = None,
        question_notifiers: Notifier | list[Notifier] | None = None,
        assigned_users: dict[str, str] | list[dict[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=multiple_outputs, **kwargs)
        self.render_template_as_native_obj = False  # it would turn "2026" into a number
        self.output_path = output_path
        self.replace = replace  # type: ignore[assignment] # until check_arguments
        self.max_credits = max_credits
        self.has_credit_limit = max_credits is not None
        self.magichour_conn_id = magichour_conn_id  # type: ignore[assignment]
        self.deferrable = deferrable  # type: ignore[assignment]
        self.wait_for_completion = wait_for_completion
        self.timeout = timeout  # type: ignore[assignment]
        self.poll_interval = poll_interval
        self.rate_limit_timeout = rate_limit_timeout  # type: ignore[assignment]
        self.report_timeout = report_timeout  # type: ignore[assignment]
        self.question_timeout = question_timeout  # type: ignore[assignment]
        self.question_notifiers = question_notifiers  # type: ignore[assignment]
        self.assigned_users = assigned_users  # type: ignore[assignment]

    def arguments(self) -> dict[str, tuple[Check, Any]]:
        number, seconds, flag = (
            runtime.arguments.number,
            runtime.arguments.seconds,
            runtime.arguments.flag,
        )
        return {
            **super().arguments(),
            "max_credits": (number, None),
            "wait_for_completion": (flag, True),
            "timeout": (seconds, 3600.0),
            "poll_interval": (seconds, None),
            "rate_limit_timeout": (runtime.arguments.seconds_or_off, 300.0),
            "report_timeout": (runtime.arguments.seconds_or_off, 900.0),
            "question_timeout": (seconds, 12 * 3600.0),
            "question_notifiers": (runtime.arguments.notifiers, []),
            "assigned_users": (runtime.arguments.users, []),
        }

    def checked(self, values: Mapping[str, object], *, unknown: Collection[str] = ()) -> InputsT:
        """See ``Inputs.checked``."""
        raise NotImplementedError

    def complete(self, inputs: InputsT) -> InputsT:
        """Fill in, free of charge, what the user left out on purpose. Not called for a resumed job."""
        return inputs

    def validate_static_fields(self) -> None:
        """At DAG parse: check all values, except those from a template or from another task."""
        with self.at_parse_time():
            self._check_all()

    def _check_all(self) -> InputsT:
        self.check_arguments()
        if self.has_credit_limit and self.max_credits is None:
            raise runtime.exceptions.InvalidInput.of(
                "max_credits", None, "is empty; a limit that comes from a template or a task must be a number"
            )
        if self.output_path is not None and self.wait_for_completion is False:
            raise runtime.exceptions.InvalidInput.of(
                "output_path",
                self.output_path,
                "needs wait_for_completion=True; without waiting nothing is downloaded. Give the path to the "
                "sensor that waits",
            )
        fields = {field: getattr(self, field) for field in self.input_fields}
        return self.checked(fields, unknown=self.known_later(fields))

    def execute(self, context: Context) -> dict[str, Any]:
        with self.as_airflow_errors():
            answers, inputs = self._begin(context)
            if lost := answers.journal.record.lost:
                if lost.is_cleared_since(answers.journal.max_tries) and runtime.ask.is_possible(context):
                    answers.ask_a_person(context, lost)
                answers.await_report(lost)
            return self._pay_and_wait(context, answers, inputs)

    def execute_answered(
        self, context: Context, short_id: str, deadline: float, event: Any = None
    ) -> dict[str, Any]:
        """
        The task was resumed: by a person's answer, by a report, or because it is time to read the reports.

        :param short_id: of the intent that the question is about.
        :param deadline: until when a person may answer, in seconds since the epoch.
        """
        with self.as_airflow_errors():
            answers, inputs = self._begin(context)
            lost = answers.journal.record.lost
            if lost is not None and lost.short_id == short_id:
                answers.apply_answer(lost, event, deadline)
            return self._pay_and_wait(context, answers, inputs)

    def _begin(self, context: Context) -> tuple[LostAnswers, InputsT]:
        """Read the journal before any other step, so that every later error can say what was paid."""
        self.bill = runtime.errors.Bill("unknown" if context["ti"].try_number > 1 else "no")
        journal = runtime.journal.Journal.of(context)
        self.bill = journal.bill()
        inputs = self._check_all()
        runtime.preload()
        self.push_watch_link(context)
        answers = runtime.lost_answer.LostAnswers(self, journal)
        answers.adopt_reported()
        return answers, inputs

    def _pay_and_wait(self, context: Context, answers: LostAnswers, inputs: InputsT) -> dict[str, Any]:
        journal = answers.journal
        self.bill = journal.bill()  # a report, or a person's answer, may have changed it
        is_new = False
        try:
            job = self._resumable(context, answers, inputs)
            if job is None:
                complete, uploaded = self._prepare(context, inputs)
                # Meanwhile the job of an earlier call may have been reported.
                if answers.adopt_reported():
                    job = self._resumable(context, answers, inputs)
            if job is None:
                fingerprint = inputs.fingerprint()
                job, is_new = self._submit(journal, fingerprint, complete, uploaded), True
        except runtime.exceptions.SubmissionUncertain:
            if (lost := journal.record.lost) and answers.await_report(lost):
                return self._pay_and_wait(context, answers, inputs)
            raise
        except BaseException as error:
            is_unpaid = self.bill.charged == "no" and getattr(error, "charged", "no") == "no"
            if self._has_reserved and is_unpaid:
                self._release_target(context)
            raise
        self.push_job_link(context, job.job_id)
        if not self.wait_for_completion:
            if is_new:
                runtime.telemetry.count_charged(job.credits_charged)  # this task does not see the end
            return {"job_id": job.job_id, "status": "queued", "credits_charged": job.credits_charged}
        return self._wait(context, job, just_submitted=is_new)

    # --- a paid job of an earlier try ---

    def _resumable(self, context: Context, answers: LostAnswers, inputs: InputsT) -> PaidJob | None:
        """The job that an earlier try paid for. This does not touch the input files: they may be gone."""
        journal = answers.journal
        fingerprint = inputs.fingerprint()
        known = journal.record.job_for(fingerprint)
        answer = self.poll_once(known.job_id) if known else None
        if known and known.ended is None and isinstance(answer, runtime.models.Job):
            self._record_failure(context, journal, answer)
        host = self.hook.settings.base_url
        try:
            job = runtime.record.decide(
                journal.record,
                fingerprint,
                host=host,
                max_tries=journal.max_tries,
                answer=answer,
                now=time.time(),
            )
        except (
            runtime.exceptions.SubmissionUncertain,
            runtime.exceptions.JobDeleted,
            runtime.exceptions.JobMismatch,
        ) as error:
            raise journal.with_instructions(error.copied(f"{error}{answers.rejection}")) from error
        if job is None:
            self.bill = runtime.errors.Bill()
            return None
        self.log.info("Job %s was paid for by an earlier try: this try pays nothing", job.job_id)
        # Complete the record of a job that a person adopted. Store the current ``max_tries`` too: then only a
        # later Clear counts as permission to pay again.
        complete = job.model_copy(
            update={
                "host": host,
                "conn_id": self.magichour_conn_id,
                "job_type": self.job_type,
                "inputs": fingerprint,
                "max_tries": journal.max_tries,
            }
        )
        self.bill = runtime.errors.Bill("yes", job.credits_charged, job.job_id)
        if complete != job:
            journal.record_job(complete)
        return complete

    def poll_once(self, job_id: str) -> Job | RequestFailed:
        """Ask the API once, free of charge: the job, or why there is no answer."""
        try:
            return self.hook.get(job_id, job_type=self.job_type)
        except runtime.exceptions.RequestFailed as error:
            return error

    def _record_failure(self, context: Context, journal: Journal, job: Job) -> None:
        """Count the refund of a job that failed while no task waited."""
        try:
            job.raise_unless_complete()
        except runtime.exceptions.JobEnded as ended:
            self._record_end(context, job.job_id, ending_of(ended), journal)

    # --- paying ---

    def _submit(
        self, journal: Journal, fingerprint: dict[str, str], inputs: InputsT, uploaded: dict[str, str]
    ) -> PaidJob:
        """
        :param fingerprint: of the inputs before ``complete``; the next try finds the job by it.
        :param inputs: the inputs after ``complete``; they are sent.
        """
        client = self.hook.client  # made here: what can fail must fail before the intent is written
        self._render_profile = inputs.render_profile
        name = (inputs.name or f"{self.dag_id}.{self.task_id}")[:MAX_NAME]
        intent = journal.record_intent(
            name=name if inputs.takes_name else None,
            inputs=fingerprint,
            host=self.hook.settings.base_url,
            conn_id=self.magichour_conn_id,
            job_type=self.job_type,
            output_path=self.output_path,
            estimated_credits=inputs.estimated_credits,
            rate_limit_timeout=self.rate_limit_timeout,
        )
        self.name = intent.name
        submission = self._send(client, journal, intent, inputs, uploaded)
        if self.poll_interval is None and self.hook.settings.poll_interval is None:
            self.poll_interval = submission.poll_interval
        job = intent.made(submission.job_id, at=datetime.now(UTC), credits_charged=submission.credits_charged)
        self.log.info(
            "Submitted job %s %s, %s credits charged (an estimate until it is complete)",
            job.job_id,
            intent.mark,
            "?" if job.credits_charged is None else f"{job.credits_charged:g}",
        )
        self._record(journal, job)
        runtime.telemetry.count_submitted(submission.credits_charged)
        return job

    def _send(
        self,
        client: MagicHourClient,
        journal: Journal,
        intent: Intent,
        inputs: InputsT,
        uploaded: dict[str, str],
    ) -> Submission:
        """
        Send the paid call. If it made no job, settle its intent.

        :raises SubmissionUncertain: a job may have been made; the intent stays open.
        """
        self.bill = runtime.errors.Bill("unknown", inputs.estimated_credits)
        self._is_paused = True  # until the client sends
        try:
            return client.submit(
                runtime.wire.paid_call(inputs, uploaded, intent.name),
                retry_429_seconds=self.rate_limit_timeout,
                pausing=self._set_paused,
            )
        except runtime.exceptions.SubmissionUncertain as error:
            raise journal.with_instructions(error.copied(f"{error}. {intent.how_to_find}")) from error
        except runtime.exceptions.MagicHourError as error:
            self.bill = runtime.errors.Bill()
            # The vendor says that no job was made. A gateway can say so too, so only the next try may pay.
            refused = isinstance(error, runtime.exceptions.RequestFailed) and error.no_job_unproven
            journal.settle(intent, "refused" if refused else "no_job")
            if advice := self._advice(error, inputs):
                raise error.copied(f"{error}. {advice}") from error
            raise
        except BaseException as error:
            if self._is_paused:  # nothing was sent, or all that was sent was refused
                self.bill = runtime.errors.Bill()
                journal.settle(intent, "no_job")
            elif isinstance(error, Exception):  # a fault of ours must not hide what was sent
                raise journal.with_instructions(
                    runtime.exceptions.SubmissionUncertain(
                        f"the paid call was sent, and its answer was not understood: {type(error).__name__}: "
                        f"{runtime.text.clean(str(error))}. "
                        f"A job may have been made and charged. {intent.how_to_find}"
                    )
                ) from error
            raise

    def _advice(self, error: MagicHourError, inputs: InputsT) -> str:
        """What only this task knows about a refusal."""
        if isinstance(error, runtime.exceptions.InsufficientCredits):
            estimate = inputs.estimated_credits
            needed = "an unknown number" if estimate is None else f"about {estimate}"
            return f"The account has {self.balance()} credits, {inputs.description} needs {needed}"
        return inputs.hint() if isinstance(error, runtime.exceptions.InvalidRequest) else ""

    def _set_paused(self, is_paused: bool) -> None:
        """
        The client calls this when a pause between two attempts begins, and before each attempt. During a
        pause no call is in progress, and no job exists.
        """
        self._is_paused = is_paused
        if not is_paused:
            self.sent_at = time.time()

    def on_kill(self) -> None:
        """
        Airflow calls this from a signal handler, so an error from here ends the pause.

        :raises MagicHourError: the API was busy, or out of reach; nothing charged; retryable.
        """
        if self._is_paused:
            raise runtime.exceptions.MagicHourError(
                "the task was killed while it waited to send the paid call", retryable=True
            )
        super().on_kill()

    def _record(self, journal: Journal, job: PaidJob) -> None:
        """
        Write the job down. The write is repeated while Airflow's API server does not answer: see ``Journal``.

        :raises JournalUnavailable: the next try does not know the job; a person can adopt it, free of charge.
        """
        paid = runtime.errors.Bill("yes", job.credits_charged, job.job_id)
        self.bill = replace(paid, adopt_command=journal.adopt_command(job))
        if not journal.record_job(job):
            raise runtime.exceptions.JournalUnavailable(
                "Airflow did not store the record of this task", retryable=False
            )
        self.bill = paid

    def _prepare(self, context: Context, inputs: InputsT) -> tuple[InputsT, dict[str, str]]:
        """The free steps before the paid call. They may be repeated."""
        self._refuse_shared_target(context)
        if self.output_path is not None:
            runtime.storage.Target(self.output_path, self.replace).check()
        sources = [runtime.storage.Source.find(*asset) for asset in inputs.uploads()]
        for source in sources:
            runtime.signatures.check_media_type(source)
        inputs = self.complete(inputs)
        for warning in inputs.warnings():
            self.log.warning(warning)
        self._check_credit_limit(inputs)
        uploaded: dict[str, str] = {}
        if sources:
            self.log.info("Uploading %s", " and ".join(f"{s.uri} ({s.size} bytes)" for s in sources))
            paths = self.hook.client.upload(sources, retry_429_seconds=self.rate_limit_timeout)
            uploaded = {source.field: path for source, path in zip(sources, paths, strict=True)}
        if self.output_path is not None:
            target = runtime.storage.Target(self.output_path, self.replace)
            self._has_reserved = target.reserve(_owner(context), self.timeout)
        return inputs, uploaded

    def _check_credit_limit(self, inputs: InputsT) -> None:
        """
        :raises CreditLimitExceeded: the estimate is above ``max_credits``.
        :raises InvalidInput: there is a limit, and no estimate to compare with it.
        """
        estimate = inputs.estimated_credits
        if estimate is None:
            self.log.info("No estimate for %s: %s", inputs.description, inputs.price.text)
            if self.max_credits is not None:
                raise runtime.exceptions.InvalidInput.of(
                    "max_credits",
                    self.max_credits,
                    f"cannot be checked for {inputs.description}: {inputs.price.text}; give "
                    "estimated_credits, which is then compared with it. Nothing was submitted",
                )
            return
        self.log.info("Estimate: %s credits for %s, %s", estimate, inputs.description, inputs.price.text)
        if self.max_credits is not None and estimate > float(self.max_credits):
            raise runtime.exceptions.CreditLimitExceeded(
                f"max_credits={self.max_credits:g}: {inputs.description} is estimated at {estimate} credits, "
                f"{inputs.price.text}; raise the limit, or make the input shorter. Nothing was submitted",
                credits=estimate,
            )

    def _refuse_shared_target(self, context: Context) -> None:
        """Refuse one file for all mapped tasks: one task could write it, and the others would pay in vain."""
        if (
            (-1 if context["ti"].map_index is None else context["ti"].map_index) < 0
            or self.replace
            or (self.output_path or "/").endswith("/")
        ):
            return
        task = self.get_dag().get_task(self.task_id)
        written = getattr(task, "partial_kwargs", vars(task)).get("output_path")
        if isinstance(written, str) and not self.is_known_later(written):
            raise runtime.exceptions.InvalidInput.of(
                "output_path",
                self.output_path,
                "is one file for all mapped tasks; end it with '/', or put {{ ti.map_index }} into it",
            )

    def _release_target(self, context: Context) -> None:
        """This task has no job that makes the file, so another task may make it."""
        if self.output_path is not None:
            runtime.storage.Target(self.output_path, self.replace).release(_owner(context))

    def balance(self) -> object:
        """The account's credits, or words for a message if the API does not say."""
        try:
            return self.hook.account().credits
        except runtime.exceptions.MagicHourError:
            return "an unknown number of"

    # --- waiting ---

    def _wait(self, context: Context, job: PaidJob, *, just_submitted: bool) -> dict[str, Any]:
        mode, clip_seconds = self._render_profile
        options: dict[str, Any] = {
            "mode": mode,
            "clip_seconds": clip_seconds,
            "deadline": self.deadline(),
            "submitted_at": job.recent_submission_time(time.time()),
            "poll_interval": self.poll_interval,
        }
        if self.deferrable:
            # A webhook finds the task by its journal in the task state store.
            self.defer_until_ended(job.job_id, **options, expects_event="task_state_store" in context)
        observer = runtime.telemetry.PollObserver(self.log, self.job_type, from_the_start=just_submitted)
        self.hook.client.wait(job.job_id, self.job_type, **options, listener=observer)
        return self.collect_result(context, job.job_id)

    def execute_complete(self, context: Context, event: Any = None) -> dict[str, Any]:
        """The task was resumed by the event of the trigger, or by a webhook."""
        with self.as_airflow_errors():
            self.bill = runtime.errors.Bill("yes")  # every later error must say so
            job_id = runtime.triggers.job_id_of(event)
            paid = None
            with runtime.telemetry.best_effort("What the job costs could not be read"):
                paid = runtime.journal.Journal.of(context).record.job(job_id)
            self.bill = runtime.errors.Bill("yes", paid.credits_charged if paid else None, job_id)
            if event.get("source") == "webhook":
                self._wait_unless_ended(job_id, paid)
        return super().execute_complete(context, event)

    def _wait_unless_ended(self, job_id: str, paid: PaidJob | None) -> None:
        """A webhook's event is only a hint: if the job has not ended, or has no file yet, wait again."""
        self.check_arguments()
        self.log.info("A webhook reports that job %s has ended", job_id)
        job = self.poll_once(job_id)
        if isinstance(job, runtime.models.Job) and (not job.ended or job.awaits_download):
            self.defer_until_ended(
                job_id,
                deadline=self.deadline(),
                submitted_at=paid.recent_submission_time(time.time()) if paid else None,
                poll_interval=self.poll_interval,  # type: ignore[arg-type] # it is checked
            )

    def collect_result(self, context: Context, job_id: str) -> dict[str, Any]:
        try:
            return super().collect_result(context, job_id)
        except runtime.exceptions.JobEnded:
            self._release_target(context)
            raise

    def job_label(self, context: Context) -> str:
        try:
            jobs = runtime.journal.Journal.of(context).record.jobs
        except runtime.exceptions.MagicHourError:
            return "its job"
        return f"job {jobs[-1].job_id}" if jobs else "its job"


def _owner(context: Context) -> str:
    """The task instance in words, the same for all its tries."""
    ti = context["ti"]
    return f"task {ti.task_id} of DAG {ti.dag_id}, run {ti.run_id}, map index {ti.map_index}"
