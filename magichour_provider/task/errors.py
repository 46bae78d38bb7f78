"""
Our errors as Airflow sees them: each is both ours and Airflow's.

``except SubmissionUncertain`` and ``isinstance(context["exception"], SubmissionUncertain)`` match, and so do
Airflow's retry rules. An error of a class in ``Retry`` uses the task's retries. One in ``Fail`` ends the task
at once. One in ``Timeout`` ends a sensor like Airflow's own timeout. All can be pickled.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
)

from magichour_provider import exceptions
from magichour_provider.exceptions import JobDeleted, JobMismatch, MagicHourError


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


def surfaced(
    error: MagicHourError, namespace: type | None = None, *, recorded: bool = True
) -> MagicHourError:
    """
    The error to raise in a task: its last line says whether money was spent.

    :param namespace: ``Retry``, ``Fail`` or ``Timeout``; default: by the error's ``retryable``.
    :param recorded: the next try knows the job.
    """
    namespace = namespace or (Retry if error.retryable else Fail)
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == exceptions.__name__)
    other: MagicHourError = getattr(namespace, name)(f"{error}\n{charge(error, recorded=recorded)}")
    vars(other).update(vars(error))
    return other


def charge(error: MagicHourError, *, recorded: bool = True) -> str:
    """Was money spent? One sentence for a person."""
    amount = "" if error.credits is None else f" {error.credits:g} credits"
    match error.charged:
        case "no":
            by_whom = ", as Magic Hour says" if getattr(error, "on_vendors_word", False) else ""
            return f"Not charged{by_whom}."
        case "refunded":
            return f"Refunded{amount}."
        case "unknown":
            at_stake = f": about{amount} are at stake" if amount else ""
            return f"Whether it was charged is not known{at_stake}."
    if isinstance(error, JobDeleted | JobMismatch) or error.job_id is None or not recorded:
        return f"Paid{amount}."
    return f"Paid{amount}. A retry or a Clear of this task continues with job {error.job_id}, free of charge."
