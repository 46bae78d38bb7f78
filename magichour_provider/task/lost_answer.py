"""After a lost answer to a paid call: check the reports about its job, wait for a report, or ask a person."""

from __future__ import annotations

import time
from time import sleep
from typing import TYPE_CHECKING, Any

from magichour_provider.api.watching import JUST_CREATED
from magichour_provider.exceptions import (
    InvalidInput,
    JournalUnavailable,
    MagicHourError,
    RequestFailed,
)
from magichour_provider.task import ask

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.task.journal import Journal
    from magichour_provider.task.record import Intent, Report
    from magichour_provider.task.submit import PaidJobOperator

REPORT_INTERVAL = 3.0  # seconds between two reads of what a webhook has reported


class LostAnswers:
    """
    The lost answers of one task instance.

    :ivar rejection: text for the end of an error: why the last report was rejected, or empty.
    """

    def __init__(self, operator: PaidJobOperator[Any], journal: Journal) -> None:
        self._operator = operator
        self.journal = journal
        self.log = operator.log
        self.rejection = ""

    def adopt_reported(self) -> bool:
        """
        Settle each intent whose answer is lost, and for which there is a report that is true.

        :returns: whether the record has changed, so that it must be decided again whether to pay.
        """
        before = self.journal.record
        try:
            self._adopt_reported()
        finally:
            if has_changed := self.journal.record is not before:
                self._operator.bill = self.journal.bill()
        return has_changed

    def _adopt_reported(self) -> None:
        for intent in self.journal.record.adoptable:
            # A job that exists takes precedence over a person who did not find it.
            for report in sorted(self.journal.reports(intent), key=lambda report: report.pay_again):
                if report.pay_again and intent.outcome != "open":
                    continue
                why_not = self._apply_report(intent, report)
                if why_not is None:
                    break
                self._reject(f"{report.source} of {intent.mark}: {why_not}")

    def await_report(self, lost: Intent) -> bool:
        """With webhooks: wait for a report of the job. True if a report has settled the intent."""
        # The pauses after HTTP 429 come between the record of the call and the call.
        sent_at = max(lost.at.timestamp(), self._operator.sent_at)
        left = sent_at + self._operator.report_timeout - time.time()
        if not self._operator.hook.settings.webhooks or left <= 0:
            return False
        self.log.warning(
            "The answer to the paid call of %s is lost. Waiting for a webhook event, for at most %.0f s",
            lost.mark,
            left,
        )
        deadline = time.monotonic() + left
        while self.journal.record.lost and time.monotonic() < deadline:
            sleep(REPORT_INTERVAL)
            try:
                self.adopt_reported()
            except MagicHourError as error:
                if not error.retryable:
                    raise
        return self.journal.record.lost is None

    def ask_a_person(self, context: Context, lost: Intent) -> None:
        """Park the task until a person says whether the lost call made a job."""
        self.log.warning(
            "The answer to the paid call of %s is lost, and the task was cleared. A person is asked: see "
            "Required Actions in Airflow's UI",
            lost.mark,
        )
        ask.ask(
            context,
            lost,
            balance=self._operator.balance(),
            timeout=self._operator.question_timeout,
            notifiers=self._operator.question_notifiers,
            assigned_users=self._operator.assigned_users,
        )

    def apply_answer(self, lost: Intent, event: Any, deadline: float) -> None:
        """Do what the person has answered."""
        try:
            answer = ask.answered(event)
            if answer is None and time.time() < deadline:
                ask.park(lost.short_id, deadline=deadline)
            if answer is None:
                raise ask.unanswered(lost, self._operator.question_timeout)
            what = "pay again" if answer.pay_again else f"adopt {answer.job_id}"
            anyway = " (adopt anyway)" if answer.anyway else ""
            self.log.warning("%s answered about %s: %s%s", answer.source, lost.mark, what, anyway)
            why_not = self._apply_report(lost, answer)
        except InvalidInput as error:
            why_not = str(error)
        if why_not is not None:
            raise ask.not_usable(lost, why_not)

    def _apply_report(self, intent: Intent, report: Report) -> str | None:
        """
        Check a report, and settle the intent if the report is true.

        :returns: why the report is rejected, or None.
        :raises RequestFailed: the API could not be asked now.
        :raises JournalUnavailable: the report is true, and could not be recorded; a retry reads it again.
        """
        if report.pay_again:
            self.log.warning("%s says that no job was made for %s: paying again", report.source, intent.mark)
            self.journal.settle(intent, "paid_again")
            return None
        if report.job_id is None:
            return "it names no job"
        if self.journal.record.job(report.job_id) is not None:
            return f"job {report.job_id} is recorded already, as that of another paid call"
        try:
            job = self._operator.poll_once(report.job_id)
        except InvalidInput as error:
            return str(error)
        if isinstance(job, RequestFailed):
            return self._without_answer(intent, report, job)
        if why_not := report.why_not(intent, job):
            return f"job {job.job_id} is not the one: {why_not}"
        self.log.info("Job %s of %s is adopted, as reported by: %s", job.job_id, intent.mark, report.source)
        adopted = intent.made(job.job_id, at=intent.at, credits_charged=job.credits_charged)
        if not self.journal.record_job(adopted, outcome="adopted"):
            raise JournalUnavailable(
                f"the adoption of job {job.job_id} could not be recorded; this try has submitted nothing",
                job_id=job.job_id,
                charged="yes",
                credits=job.credits_charged,
            )
        return None

    def _without_answer(self, intent: Intent, report: Report, failed: RequestFailed) -> str:
        """
        The API does not return the job now. That does not prove that the job does not exist.

        :raises RequestFailed: the API may return it later; the report is kept.
        """
        # A webhook event can arrive before the API returns the job.
        latest = intent.at.timestamp() + intent.rate_limit_timeout + JUST_CREATED
        is_early = report.source == "webhook" and time.time() < latest
        if failed.retryable or not failed.by_vendor or (is_early and failed.status_code == 404):
            raise failed.copied(retryable=True, charged="unknown", credits=intent.estimated_credits)
        if intent.outcome == "refused" and report.source == "webhook" and report.conn_id == intent.conn_id:
            # The API said that no job was made, but a signed event says that there is one: a person decides.
            self.journal.settle(intent, "open")
            if self.journal.record.lost is None:  # not recorded: the next step would pay
                raise failed.copied(retryable=True, charged="unknown", credits=intent.estimated_credits)
        return str(failed)

    def _reject(self, why: str) -> None:
        ending = f". The report about it is rejected: {why}"
        if ending != self.rejection:
            self.log.warning("A report is rejected: %s", why)
        self.rejection = ending
