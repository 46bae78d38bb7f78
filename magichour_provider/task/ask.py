"""
Ask a person about a lost answer to the paid call: is there a job to adopt, or shall the task pay again?

The task parks as a *required action* of Airflow's UI (human in the loop, Airflow 3.3 and newer), without a
worker slot and without a trigger. The answer resumes the same try.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import Param

from magichour_provider import telemetry
from magichour_provider.api import wire
from magichour_provider.exceptions import InvalidInput, SubmissionUncertain
from magichour_provider.task.arguments import flag
from magichour_provider.task.record import Report

if TYPE_CHECKING:
    from airflow.sdk import Context

    from magichour_provider.task.arguments import Notifier
    from magichour_provider.task.record import Intent

log = logging.getLogger(__name__)

ADOPT, PAY_AGAIN = "adopt", "pay again"
RESUMED = "execute_answered"  # the operator's method
# A report from the command line does not wake the parked task, so the task reads the reports this often.
REREAD = timedelta(hours=1)


def is_possible(context: Context) -> bool:
    """True on Airflow 3.3 and newer, but not in ``dag.test()``, where nobody would answer."""
    return "task_state_store" in context and _is_supervised()


def _is_supervised() -> bool:
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import CommsDecoder

    return isinstance(getattr(task_runner, "SUPERVISOR_COMMS", None), CommsDecoder)


def ask(
    context: Context,
    intent: Intent,
    *,
    balance: object,
    timeout: float,
    notifiers: Iterable[Notifier],
    assigned_users: list[dict[str, str]],
) -> None:
    """
    Park the task until a person has answered. Returns if the question cannot be asked.

    Airflow keeps one question for each task instance. After a Clear it shows the text of the first question
    again. So a second question about another intent, or for other users, is not asked.

    :param balance: of the account now, in credits.
    :param timeout: seconds that the person has for the answer.
    :param notifiers: called when the question is there: a parked task fires no callback.
    :param assigned_users: who may answer; an empty list means all who may edit task instances.
    """
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

    ti = context["ti"]
    question = CreateHITLDetailPayload(
        ti_id=ti.id,
        options=[ADOPT, PAY_AGAIN],
        subject=f"Magic Hour: the answer to a paid call of {ti.task_id} was lost. Adopt its job?",
        body=_body(intent, balance, timeout),
        params={name: param.serialize() for name, param in _form(intent).items()},
        assigned_users=assigned_users,  # type: ignore[arg-type] # pydantic takes dicts
    )
    shown: Any = task_runner.SUPERVISOR_COMMS.send(question)
    if intent.mark not in shown.body or shown.assigned_users != question.assigned_users:
        log.warning(
            "The question was not asked: Airflow still shows the first question of this task instance, which "
            "is about another paid call, or for other users"
        )
        return
    for notify in notifiers:
        with telemetry.best_effort("A notifier of the question failed"):
            notify(context)
    park(intent.short_id, deadline=time.time() + timeout)


def park(short_id: str, *, deadline: float) -> NoReturn:
    """Park the task until there is an answer, or until it is time to read the reports again."""
    from airflow.sdk.exceptions import TaskAwaitingInput

    left = timedelta(seconds=max(1.0, deadline - time.time()))
    raise TaskAwaitingInput(
        method_name=RESUMED,
        kwargs={"short_id": short_id, "deadline": deadline},
        timeout=min(left, REREAD),
    )


def _body(intent: Intent, balance: object, timeout: float) -> str:
    estimate = intent.estimated_credits
    at_stake = "an unknown number of" if estimate is None else f"{estimate:g}"
    tick = "" if intent.takes_name else ", tick *Adopt anyway*,"
    return (
        f"Try {intent.try_number} sent the paid call at {intent.at:%Y-%m-%d %H:%M:%S} UTC, and its answer "
        "was lost. A job may have been made and charged.\n\n"
        f"- At stake: about **{at_stake} credits**. The account had {balance} credits at "
        f"{datetime.now(UTC):%H:%M} UTC.\n"
        f"- Connection: `{intent.conn_id}`.\n"
        f"- {_how_to_find(intent)}. Search [the library of Magic Hour]({wire.LIBRARY_URL}) for it.\n\n"
        f"**If the job is there**, write its id below{tick} and choose *{ADOPT}*. Nothing is paid.\n\n"
        f"**If it is not there**, choose *{PAY_AGAIN}*. That costs about {at_stake} credits. A job that was "
        "charged can be missing for some minutes.\n\n"
        f"Without an answer within {_hours(timeout)} the task fails, and nothing is paid."
    )


def _how_to_find(intent: Intent) -> str:
    if not intent.takes_name:
        return f"{intent.how_to_find} ({intent.mark} is only in Airflow)"
    return intent.how_to_find.replace(intent.mark, f"`{intent.mark}`")


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h"


def _form(intent: Intent) -> dict[str, Param]:
    return {
        "job_id": Param(
            None,
            type=["null", "string"],
            title="Job id",
            description="Only to adopt: the id of the job"
            + (f" whose name ends in {intent.mark}." if intent.takes_name else "."),
        ),
        "adopt_anyway": Param(
            default=False,
            type="boolean",
            title="Adopt anyway",
            description=f"Adopt the job even if its name does not end in {intent.mark}"
            + ("." if intent.takes_name else ": it takes no name, so this tick is needed."),
        ),
    }


def answered(event: Any) -> Report | None:
    """
    What a person has answered, as a report; its ``source`` names the person.

    :returns: None if a report or the end of a pause has resumed the task, and not an answer.
    :raises InvalidInput: the answer cannot be used; nothing was charged.
    """
    if not isinstance(event, dict) or not event.get("chosen_options"):
        return None
    given = event.get("params_input") or {}
    user = event.get("responded_by_user") or {}
    who = f"{user['name']} (id {user['id']})" if user else "somebody"
    if event["chosen_options"] == [PAY_AGAIN]:
        return Report(pay_again=True, source=who)
    if not given.get("job_id"):
        raise InvalidInput(f"{who} chose to adopt, and gave no job id")
    return Report(
        job_id=wire.checked_job_id(given["job_id"]),
        anyway=flag("adopt_anyway", given.get("adopt_anyway") or False),
        source=who,
    )


def unanswered(intent: Intent, timeout: float) -> SubmissionUncertain:
    return SubmissionUncertain(
        f"nobody has answered within {_hours(timeout)} whether the job of {intent.mark} exists. Clear the "
        "task: it asks again",
        credits=intent.estimated_credits,
    )


def not_usable(intent: Intent, why: object) -> SubmissionUncertain:
    return SubmissionUncertain(
        f"the answer to the question about {intent.mark} cannot be used: {why}. Clear the task: it asks "
        "again",
        credits=intent.estimated_credits,
    )
