"""
The errors of this package as Airflow exceptions: each class here inherits from both. And the last line of an
error, which says whether money was spent.

``except SubmissionUncertain`` and ``isinstance(context["exception"], SubmissionUncertain)`` match, and so do
Airflow's retry rules. An error of a class in ``Retry`` uses the task's retries. One in ``Fail`` ends the task
at once. One in ``Timeout`` ends a sensor like Airflow's own timeout. All can be pickled.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)

from magichour_provider import exceptions
from magichour_provider.exceptions import Charged, JobDeleted, JobMismatch, MagicHourError


class Retry:
    """Errors that a retry can overcome."""


class Fail:
    """Errors that no retry can overcome."""


class Timeout:
    """A sensor's wait that was too long."""


def _define(namespace: type, airflow_cls: type[Exception]) -> None:
    for name, ours in vars(exceptions).items():
        if isinstance(ours, type) and issubclass(ours, MagicHourError):
            place = {
                "__doc__": ours.__doc__,
                "__module__": __name__,
                "__qualname__": f"{namespace.__name__}.{name}",
            }
            setattr(namespace, name, type(name, (ours, airflow_cls), place))


_define(Retry, AirflowException)
_define(Fail, AirflowFailException)
_define(Timeout, AirflowSensorTimeout)


@dataclass(frozen=True)
class Bill:
    """
    What this task instance has paid, as far as this try knows.

    :ivar charged: was the latest paid call charged?
    :ivar credits: of that call; an estimate until the job has ended.
    :ivar job_id: the job that was paid for; of a sensor the job that it waits for.
    :ivar adopt_command: the command with which a person adopts the job, if the next try does not know it.
    """

    charged: Charged = "no"
    credits: float | None = None
    job_id: str | None = None
    adopt_command: str | None = None

    def added_to(self, error: MagicHourError) -> MagicHourError:
        """Add the cost of the job to an error. The call that failed may be free, but the job is paid for."""
        if self.charged == "no":
            return error
        changed = error.copied(
            job_id=error.job_id or self.job_id,
            charged=self.charged if error.charged == "no" else error.charged,
            credits=self.credits if error.credits is None else error.credits,
        )
        if self.adopt_command:
            changed = changed.copied(
                f"{error}. Job {self.job_id} is paid for, but could not be recorded for the next try. "
                f"To adopt it, free of charge:\n  {self.adopt_command}\nThen clear the task."
            )
        return changed

    def text_of(self, error: BaseException) -> str:
        """The text of an error of Airflow's, with what a person must know about the money."""
        shown = self.added_to(MagicHourError(str(error), charged="no"))
        return f"{shown}\n{_charge_sentence(shown, recorded=self.adopt_command is None)}"


def as_airflow_error(
    error: MagicHourError, namespace: type | None = None, *, recorded: bool = True
) -> MagicHourError:
    """
    The error to raise in a task: its last line says whether money was spent.

    :param namespace: ``Retry``, ``Fail`` or ``Timeout``; default: by the error's ``retryable``.
    :param recorded: the next try knows the job.
    """
    namespace = namespace or (Retry if error.retryable else Fail)
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == exceptions.__name__)
    other: MagicHourError = getattr(namespace, name)(f"{error}\n{_charge_sentence(error, recorded=recorded)}")
    vars(other).update(vars(error))
    return other


def _charge_sentence(error: MagicHourError, *, recorded: bool = True) -> str:
    amount = "" if error.credits is None else f" {error.credits:g} credits"
    match error.charged:
        case "no":
            by_whom = ", as Magic Hour says" if getattr(error, "no_job_unproven", False) else ""
            return f"Not charged{by_whom}."
        case "refunded":
            return f"Refunded{amount}."
        case "unknown":
            at_stake = f"; about{amount} are at stake" if amount else ""
            return f"It is not known whether this was charged{at_stake}."
    if isinstance(error, JobDeleted | JobMismatch) or error.job_id is None or not recorded:
        return f"Paid{amount}."
    return f"Paid{amount}. A retry or a Clear of this task continues with job {error.job_id}, free of charge."
