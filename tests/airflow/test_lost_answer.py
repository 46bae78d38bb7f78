"""The answer of a paid call was lost: it is reported by a webhook, or a person is asked in Airflow's UI."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("airflow.models.task_state_store", reason="Airflow 3.3 and newer can ask, and be told")

from magichour_provider.api.client import MagicHourClient
from magichour_provider.exceptions import InvalidInput
from magichour_provider.operators import TalkingPhotoOperator
from magichour_provider.task.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from harness import Airflow, Run

    from magichour_provider.emulator import Emulator

FORGED = "cm-of-nobody"


class Person:
    """Answers each question as soon as it is there, through Airflow's REST API."""

    def __init__(self, client: Any, tokens: dict[str, str]) -> None:
        self._client = client
        self._tokens = tokens
        self.questions: list[dict[str, Any]] = []
        self.refusals: list[int] = []
        self.answers: list[Callable[[dict[str, Any]], dict[str, Any] | None]] = []

    def will(self, chosen: str, by: str = "ada", **form: Any) -> None:
        self.answers.append(lambda _: {"chosen_options": [chosen], "params_input": form, "by": by})

    def reads(self) -> None:
        """Read the question that is there, and answer."""
        pending = "/api/v2/dags/~/dagRuns/~/hitlDetails?response_received=false&state=awaiting_input"
        ((question),) = self._ask("GET", pending).json()["hitl_details"]
        ti = question["task_instance"]
        path = (
            f"/api/v2/dags/{ti['dag_id']}/dagRuns/{ti['dag_run_id']}/taskInstances/{ti['task_id']}/"
            f"{ti['map_index']}/hitlDetails"
        )
        self.questions.append(question)
        while answer := self.answers.pop(0)(question):
            by = answer.pop("by")
            said = self._ask("PATCH", path, answer, by)
            if said.is_success:
                return
            self.refusals.append(said.status_code)

    def _ask(self, method: str, path: str, body: Any = None, by: str = "ada") -> Any:
        headers = {"Authorization": f"Bearer {self._tokens[by]}"}
        return self._client.request(method, path, json=body, headers=headers)


@pytest.fixture(scope="module")
def rest(api_server: FastAPI) -> Any:
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    sign = api_server.state.auth_manager.generate_jwt
    tokens = {name: sign(SimpleAuthManagerUser(username=name, role="admin")) for name in ("ada", "grace")}
    return TestClient(api_server), tokens


@pytest.fixture
def person(rest: Any, monkeypatch: pytest.MonkeyPatch) -> Person:
    """Somebody in front of Airflow's UI, and tasks that ask although ``dag.test()`` runs them."""
    from airflow.sdk.api.datamodels._generated import TaskInstanceState
    from airflow.sdk.execution_time import supervisor

    person = Person(*rest)
    run_task = supervisor.run_task_in_process

    def run_and_answer(ti: Any, task: Any) -> Any:
        step = run_task(ti, task)
        if step.ti.state == "awaiting_input":
            person.reads()
            # dag.test() would set it back, and wait for another answer.
            step.ti.state = TaskInstanceState.SCHEDULED
        return step

    monkeypatch.setattr("magichour_provider.task.ask._is_supervised", lambda: True)
    monkeypatch.setattr(supervisor, "run_task_in_process", run_and_answer)
    return person


def lost(airflow: Airflow, emulator: Emulator, **arguments: Any) -> Run:
    """A run whose task has failed, since the answer to its paid call was lost after the charge."""
    emulator.fault("create", reset="after")
    run = airflow.video(**arguments)
    assert run.state() == "failed"
    assert emulator.charges() == 1
    return run


def test_the_first_failure_asks_nobody_so_that_alerts_fire(
    airflow: Airflow, emulator: Emulator, person: Person
) -> None:
    run = lost(airflow, emulator, retries=3)
    assert person.questions == []
    assert run.errors()[0].startswith("AirflowFailException: SubmissionUncertain")


def test_a_cleared_task_asks_what_was_lost_and_what_is_at_stake(
    airflow: Airflow, emulator: Emulator, person: Person
) -> None:
    run = lost(airflow, emulator)
    (job,) = emulator.jobs()
    person.will("adopt", job_id=job["id"], adopt_anyway=False)
    run.clear()
    (question,) = person.questions
    short_id = job["name"].partition("[mh-")[2].strip("]")
    assert question["options"] == ["adopt", "pay again"]
    for words in (
        f"`[mh-{short_id}]`",
        "Try 1 sent the paid call at ",
        f"about **{job['credits_charged']} credits**",
        f"The account had {emulator.credits} credits at ",
        "https://magichour.ai/my-library",
        "`magichour_default`",
        "within 12 h",
    ):
        assert words in question["body"]
    assert question["assigned_users"] == []


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_adopted_job_is_delivered_unpaid_by_the_same_try(
    airflow: Airflow, emulator: Emulator, person: Person, deferrable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run = lost(airflow, emulator, output_path=f"{airflow.folder}/out/", deferrable=deferrable)
    (job,) = emulator.jobs()
    person.will("adopt", job_id=f" {job['id']} ")
    run.clear()
    assert run.state() == "success", run.errors()
    assert run.result()["job_id"] == job["id"]
    assert (airflow.folder / "out" / f"{job['id']}.mp4").is_file()
    assert {step.ti.try_number for step in run.steps} == {2}
    assert emulator.charges() == 1


def test_paying_again_pays_once_more_and_asks_no_more(
    airflow: Airflow, emulator: Emulator, person: Person
) -> None:
    emulator.fault("create", reset="before")
    run = airflow.video()
    person.will("pay again")
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1
    run.clear()
    assert len(person.questions) == 1
    assert emulator.charges() == 1


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"job_id": FORGED}, "HTTP 404"),
        ({"job_id": "of another task"}, "its name does not end in"),
        ({}, "gave no job id"),
        ({"job_id": "a/b?c"}, ""),
    ],
    ids=["unknown", "another's", "empty", "not an id"],
)
def test_a_wrong_id_fails_the_try_and_the_next_clear_asks_again(
    airflow: Airflow, emulator: Emulator, person: Person, form: dict[str, str], reason: str
) -> None:
    airflow.video(name="of another task")
    (other,) = emulator.jobs()
    emulator.fault("create", reset="before")
    run = airflow.video(retries=2)
    form = {field: other["id"] if value == "of another task" else value for field, value in form.items()}
    person.will("adopt", **form)
    run.clear()
    (error,) = run.errors()
    assert error.startswith("AirflowFailException: SubmissionUncertain")
    assert "Clear the task: it asks again" in error
    assert reason in error
    person.will("pay again")
    run.clear()
    assert run.state() == "success", run.errors()
    assert len(person.questions) == 2
    assert emulator.charges() == 2


@pytest.mark.parametrize("changed", ["the intent", "the users"])
def test_a_question_that_airflow_would_show_with_an_old_text_is_not_asked(
    airflow: Airflow, emulator: Emulator, person: Person, changed: str
) -> None:
    emulator.fault("create", reset="before", times=2)
    run = airflow.video()
    person.will("pay again" if changed == "the intent" else "adopt")
    run.clear()
    if changed == "the users":
        run.dag.get_task("video").assigned_users = [{"id": "grace", "name": "grace"}]  # type: ignore[union-attr]
    run.clear()
    assert len(person.questions) == 1
    assert "curl -X PUT" in run.errors()[0]
    assert emulator.charges() == 0


def test_a_job_of_another_name_is_adopted_with_the_tick(
    airflow: Airflow, emulator: Emulator, person: Person
) -> None:
    emulator.fault("create", reset="before")
    run = airflow.video()
    airflow.video(name="made by hand")
    (other,) = emulator.jobs()
    person.will("adopt", job_id=other["id"], adopt_anyway=True)
    run.clear()
    assert run.state() == "success", run.errors()
    assert run.result()["job_id"] == other["id"]
    assert emulator.charges() == 1


def test_the_job_of_a_tool_without_names_is_adopted_with_the_tick_only(
    airflow: Airflow, emulator: Emulator, person: Person
) -> None:
    emulator.fault("create_tool", reset="after")
    body = {"assets": {"image_file_path": str(airflow.photo)}, "end_seconds": 4, "script": "Buy this."}
    run = airflow.call("ai-ugc-ad", body)
    (job,) = emulator.jobs()
    person.will("adopt", job_id=job["id"], adopt_anyway=False)
    run.clear("job")
    assert run.errors("job")[0].startswith(
        "AirflowFailException: SubmissionUncertain: the answer to the question"
    )
    (question,) = person.questions
    assert "Jobs of this tool have no name" in question["body"]
    assert ", tick *Adopt anyway*, and choose *adopt*" in question["body"]
    person.will("adopt", job_id=job["id"], adopt_anyway=True)
    run.clear("job")
    assert run.state("job") == "success", run.errors("job")
    assert run.result("job")["job_id"] == job["id"]
    assert emulator.charges() == 1


def test_no_answer_in_time_fails_for_good_and_pays_nothing(
    airflow: Airflow, emulator: Emulator, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lost(airflow, emulator, retries=2, question_timeout=0.001)
    person.answers.append(lambda _: timed_out(run))
    run.clear()
    (error,) = run.errors()
    assert error.startswith("AirflowFailException: SubmissionUncertain: nobody has answered")
    assert emulator.charges() == 1


def timed_out(run: Run) -> None:
    """What the scheduler does when the time for an answer is over."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import handle_event_submit
    from airflow.triggers.base import TriggerEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        ti = session.get_one(TaskInstance, run.instances()[0].id)
        handle_event_submit(
            TriggerEvent({"error": "…", "error_type": "timeout"}), task_instance=ti, session=session
        )


def report(run: Run, entry: dict[str, Any]) -> None:
    """What the webhook's handler writes."""
    from airflow.state import TaskScope, get_state_backend

    (ti,) = run.instances()
    scope = TaskScope(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id, map_index=ti.map_index)
    backend = get_state_backend()
    (intent,) = json.loads(str(backend.get(scope, "magichour_journal")))["intents"]
    backend.set(scope, "magichour_reported", json.dumps({intent["short_id"]: [entry]}))


@pytest.mark.parametrize("forged_first", [False, True])
def test_a_report_that_comes_while_a_person_is_asked_settles_it(
    airflow: Airflow, emulator: Emulator, person: Person, forged_first: bool
) -> None:
    run = lost(airflow, emulator)
    (job,) = emulator.jobs()

    def reported(_: object) -> None:
        report(run, {"job_id": job["id"], "conn_id": "magichour_default", "source": "webhook"})
        timed_out(run)

    def forged(_: object) -> None:
        report(run, {"job_id": FORGED, "conn_id": "magichour_default"})
        timed_out(run)

    person.answers += [forged, reported] if forged_first else [reported]
    run.clear()
    assert run.state() == "success", run.errors()
    assert run.result()["job_id"] == job["id"]
    assert emulator.charges() == 1


def test_an_answer_that_comes_after_the_report_changes_nothing(
    airflow: Airflow, emulator: Emulator, person: Person
) -> None:
    run = lost(airflow, emulator)
    (job,) = emulator.jobs()

    def both(_: object) -> dict[str, Any]:
        report(run, {"job_id": job["id"], "conn_id": "magichour_default"})
        return {"chosen_options": ["pay again"], "params_input": {}, "by": "ada"}

    person.answers.append(both)
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


def test_only_assigned_users_can_spend_and_the_notifier_is_called(
    airflow: Airflow, emulator: Emulator, person: Person
) -> None:
    emulator.fault("create", reset="before")
    run = airflow.run(
        """
        def notify(context):
            with open(NOTES, "a") as notes:
                notes.write(context["ti"].task_id)
        TalkingPhotoOperator(
            task_id="video", question_notifiers=notify,
            assigned_users={"id": "grace", "name": "grace"}, **VIDEO,
        )
        """,
        NOTES=f"{airflow.folder}/notes",
    )
    person.will("pay again", by="ada")
    person.will("pay again", by="grace")
    run.clear()
    assert run.state() == "success", run.errors()
    assert person.refusals == [403]
    assert (airflow.folder / "notes").read_text() == "video"


def test_dag_test_never_asks(airflow: Airflow, emulator: Emulator) -> None:
    run = lost(airflow, emulator)
    run.clear()
    assert "curl -X PUT" in run.errors()[0]


# --- the webhook's report ---


@pytest.fixture
def webhooks(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = emulator.connection
    connection["extra"]["webhook_secret"] = "whsec_1"
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(connection))


def while_it_waits(monkeypatch: pytest.MonkeyPatch, *happens: Callable[[], object]) -> list[float]:
    """What happens in the pauses between two reads, one after the other."""
    pauses: list[float] = []
    steps = iter(happens)

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        next(steps, lambda: None)()

    monkeypatch.setattr("magichour_provider.task.lost_answer.sleep", pause)
    return pauses


@pytest.mark.usefixtures("webhooks")
@pytest.mark.parametrize("deferrable", [False, True])
def test_the_try_that_lost_the_answer_goes_on_once_it_is_reported(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    emulator.fault("create", reset="after")
    waits = while_it_waits(monkeypatch, lambda: None, lambda: reported_latest(emulator.jobs()[0]["id"]))
    run = airflow.video(output_path=f"{airflow.folder}/out/", deferrable=deferrable)
    assert run.state() == "success", run.errors()
    assert waits == [3.0, 3.0]
    assert emulator.charges() == 1


def reported_latest(
    job_id: str, conn_id: str = "magichour_default", before: list[dict[str, Any]] | None = None
) -> None:
    """As the webhook's handler does: for the task instance whose journal was written last."""
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.state import TaskScope, get_state_backend
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        row = session.scalars(
            select(TaskStateStoreModel)
            .where(TaskStateStoreModel.key == "magichour_journal")
            .order_by(TaskStateStoreModel.updated_at.desc())
        ).first()
        assert row is not None
        scope = TaskScope(dag_id=row.dag_id, run_id=row.run_id, task_id=row.task_id, map_index=row.map_index)
        short_id = json.loads(row.value)["intents"][-1]["short_id"]
    report = {"job_id": job_id, "conn_id": conn_id, "source": "webhook"}
    reported = {short_id: [*(before or []), report]}
    get_state_backend().set(scope, "magichour_reported", json.dumps(reported))


@pytest.mark.usefixtures("webhooks")
def test_the_api_may_fail_while_the_report_is_waited_for(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("create", reset="after")
    emulator.fault("get_video", status=503, times=4)
    while_it_waits(monkeypatch, lambda: reported_latest(emulator.jobs()[0]["id"]))
    run = airflow.video()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


@pytest.mark.usefixtures("webhooks")
@pytest.mark.parametrize("conn_id", ["magichour_default", "another"])
def test_without_a_report_that_is_true_it_fails_for_good_in_time(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, conn_id: str
) -> None:
    emulator.fault("create", reset="after" if conn_id == "another" else "before")
    jobs = emulator.jobs
    while_it_waits(monkeypatch, lambda: reported_latest(jobs()[0]["id"] if jobs() else FORGED, conn_id))
    run = airflow.video(retries=3, report_timeout=0.5)
    (error,) = run.errors()
    assert error.startswith("AirflowFailException: SubmissionUncertain")
    assert "curl -X PUT" in error
    assert emulator.charges() == len(jobs())


@pytest.mark.usefixtures("webhooks")
def test_the_wait_for_a_report_begins_when_the_call_is_sent_and_not_when_it_is_recorded(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("create", status=429, headers={"Retry-After": "2"})
    emulator.fault("create", reset="after")
    while_it_waits(monkeypatch, lambda: reported_latest(emulator.jobs()[0]["id"]))
    run = airflow.video(report_timeout=1.5)
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


@pytest.mark.usefixtures("webhooks")
def test_a_report_is_not_waited_for_when_that_is_off(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("create", reset="after")
    waits = while_it_waits(monkeypatch)
    run = airflow.video(report_timeout=0)
    assert "SubmissionUncertain" in run.errors()[0]
    assert waits == []


# --- evidence of a job weighs more than permission to pay ---


def while_the_second_try_uploads(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Act when the second try has uploaded its files, and has not paid yet."""
    upload = MagicHourClient.upload
    tries: list[int] = []

    def then_act(*args: Any, **kwargs: Any) -> Any:
        paths = upload(*args, **kwargs)
        tries.append(1)
        if len(tries) == 2:
            act()
        return paths

    monkeypatch.setattr(MagicHourClient, "upload", then_act)


def test_a_report_that_comes_while_files_are_uploaded_is_read_before_the_paid_call(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("create", status=503, effect=True)
    while_the_second_try_uploads(monkeypatch, lambda: reported_latest(emulator.jobs()[0]["id"]))
    run = airflow.video(retries=1)
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


@pytest.mark.parametrize(
    "odd",
    [{"status": 404}, {"status": 403, "html": True}, {"body": {"status": "complete", "name": None}}],
    ids=str,
)
def test_a_refused_call_whose_job_is_reported_is_not_paid_again_when_the_job_cannot_be_seen(
    airflow: Airflow, emulator: Emulator, odd: dict[str, Any]
) -> None:
    emulator.fault("create", status=503, effect=True)
    run = airflow.video()
    (job,) = emulator.jobs()
    reported_latest(job["id"])
    if "body" in odd:
        odd = {"body": {"id": job["id"], **odd["body"]}}
    emulator.fault("get_video", times=1, **odd)
    run.clear()
    run.clear()
    assert emulator.charges() == 1
    assert run.state() == "success", run.errors()


def test_a_refused_call_that_is_contradicted_while_files_are_uploaded_is_not_paid_again(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("create", status=503, effect=True)

    def contradict() -> None:
        emulator.fault("get_video", status=403, times=None)
        reported_latest(emulator.jobs()[0]["id"])

    while_the_second_try_uploads(monkeypatch, contradict)
    run = airflow.video(retries=1)
    assert run.errors()[-1].startswith("AirflowFailException: SubmissionUncertain")
    assert emulator.charges() == 1


def test_an_adoption_that_cannot_be_recorded_pays_nothing(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.fault("create", status=503, effect=True)
    run = airflow.video()
    reported_latest(emulator.jobs()[0]["id"])
    with monkeypatch.context() as away:
        away.setattr(Journal, "record_job", lambda *_, **__: False)
        run.clear()
    assert "could not be recorded" in run.errors()[-1]
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


def test_a_job_that_reports_itself_weighs_more_than_a_person_who_did_not_find_it(
    airflow: Airflow, emulator: Emulator
) -> None:
    run = lost(airflow, emulator)
    (job,) = emulator.jobs()
    reported_latest(job["id"], before=[{"pay_again": True}])
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


# --- the arguments ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"report_timeout": -1},
        {"report_timeout": False},
        {"question_timeout": 0},
        {"question_notifiers": "ada@example.org"},
        {"assigned_users": "ada"},
        {"assigned_users": [{"id": 7, "name": "ada"}]},
    ],
    ids=str,
)
def test_an_argument_of_the_question_that_cannot_work_fails_at_parse(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        TalkingPhotoOperator(
            task_id="video", image_file_path="a.jpg", audio_file_path="b.mp3", end_seconds=1, **wrong
        )
