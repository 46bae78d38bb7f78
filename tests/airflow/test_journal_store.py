"""The journal, kept in Airflow's task state store: what a person can do with it, and when it fails."""

from __future__ import annotations

import json
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from harness import both_modes

from magichour_provider.emulator import Emulator
from magichour_provider.exceptions import SubmissionUncertain
from magichour_provider.task.journal import Journal
from magichour_provider.task.record import PaidJob
from magichour_provider.task.stores import VariableStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from fastapi import FastAPI
    from harness import Airflow, Run

    Block = Callable[[], AbstractContextManager[object]]

ROUTES = "airflow.api_fastapi.execution_api.routes"
ALWAYS: dict[str, Any] = {"status": 500, "times": None}


@pytest.fixture(scope="module")
def follow(api_server: FastAPI) -> Callable[[str], None]:
    """Does to Airflow's REST API what a curl command in an error message does, as an administrator."""
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from fastapi.testclient import TestClient

    token = api_server.state.auth_manager.generate_jwt(SimpleAuthManagerUser(username="ada", role="admin"))

    def follow(command: str) -> None:
        words = shlex.split(command.replace("$AIRFLOW_TOKEN", token).replace("$AIRFLOW_URL", ""))
        options = [(words[at], words[at + 1]) for at in range(len(words) - 1)]
        answer = TestClient(api_server).request(
            next(value for option, value in options if option == "-X"),
            next(word for word in words if word.startswith("/api/")),
            headers=dict(value.split(": ", 1) for option, value in options if option == "-H"),
            content=next((value for option, value in options if option == "-d"), None),
        )
        assert answer.is_success, answer.text

    return follow


def command(run: Run, part: str) -> str:
    """The command with this part in the last error's message: ``JOB_ID``, ``pay_again`` or ``DELETE``."""
    lines = run.errors()[-1].splitlines()
    (found,) = [line for line in lines if line.strip().startswith("curl ") and part in line]
    return found


@both_modes
def test_a_lost_answer_stops_the_task_with_two_ways_to_go_on(
    airflow: Airflow, emulator: Emulator, deferrable: bool
) -> None:
    emulator.fault("create", reset="after")
    run = airflow.video(deferrable=deferrable, retries=3)
    (error,) = run.raised()
    assert isinstance(error, SubmissionUncertain)
    assert command(run, "JOB_ID")
    assert command(run, '"pay_again"')
    assert "https://magichour.ai/my-library" in str(error)
    assert emulator.charges() == 1

    run.clear()
    (error,) = run.raised()
    assert isinstance(error, SubmissionUncertain), "a clear alone does not make it known"
    assert emulator.jobs()[0]["name"].split()[-1] in str(error)
    assert emulator.charges() == 1


@both_modes
def test_an_adopted_job_is_resumed_unpaid(
    airflow: Airflow, emulator: Emulator, follow: Callable[[str], None], deferrable: bool
) -> None:
    emulator.fault("create", reset="after")
    run = airflow.video(deferrable=deferrable, output_path=f"{airflow.folder}/out/")
    (job,) = emulator.jobs()
    follow(command(run, "JOB_ID").replace("JOB_ID", job["id"]))
    run.clear()
    assert run.state() == "success", run.errors()
    assert run.result()["job_id"] == job["id"]
    assert (airflow.folder / "out" / f"{job['id']}.mp4").is_file()
    assert emulator.charges() == 1


def test_a_task_that_a_person_allows_to_pay_again_does(
    airflow: Airflow, emulator: Emulator, follow: Callable[[str], None]
) -> None:
    emulator.fault("create", reset="after")
    run = airflow.video()
    follow(command(run, '"pay_again"'))
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 2


@pytest.fixture
def airflow_3_2(monkeypatch: pytest.MonkeyPatch) -> Block:
    """In this block the journal is kept where Airflow 3.0 to 3.2 keep it; after it, Airflow is upgraded."""

    @contextmanager
    def kept_before() -> Iterator[None]:
        with monkeypatch.context() as before:
            before.setattr("magichour_provider.task.journal.TaskStateStore", VariableStore)
            yield

    return kept_before


def test_a_job_that_was_paid_before_airflow_was_upgraded_is_resumed(
    airflow: Airflow, emulator: Emulator, airflow_3_2: Block
) -> None:
    emulator.fault("download", status=500, times=4)
    with airflow_3_2():
        run = airflow.video(output_path=f"{airflow.folder}/out/", deferrable=True)
    assert run.state() == "failed"
    for _ in ("the first time", "and ever after"):
        run.clear()
        assert run.state() == "success", run.errors()
        assert emulator.charges() == 1


def test_a_lost_answer_of_before_the_upgrade_can_be_settled_after_it(
    airflow: Airflow,
    emulator: Emulator,
    follow: Callable[[str], None],
    airflow_3_2: Block,
) -> None:
    emulator.fault("create", reset="after")
    with airflow_3_2():
        run = airflow.video()
    run.clear()
    assert "SubmissionUncertain" in run.errors()[0]
    assert emulator.charges() == 1
    follow(command(run, '"pay_again"'))
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 2


def test_a_journal_of_before_the_upgrade_that_cannot_be_read_is_not_taken_for_nothing(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastapi import HTTPException

    class Away:
        @staticmethod
        def get(*_: object, **__: object) -> str:
            raise HTTPException(500, "the database is away")

    monkeypatch.setattr(f"{ROUTES}.variables.Variable", Away)
    run = airflow.video()
    assert "JournalUnavailable" in run.errors()[0]
    assert emulator.requests() == []


def test_adopting_works_for_one_mapped_instance(
    airflow: Airflow, emulator: Emulator, follow: Callable[[str], None]
) -> None:
    emulator.fault("create", reset="after", name="grace")
    run = airflow.run(
        "TalkingPhotoOperator.partial(task_id='video', **VIDEO).expand(name=['ada', 'grace', 'alan'])"
    )
    assert run.state() == "success,failed,success"
    follow(command(run, "JOB_ID").replace("JOB_ID", emulator.jobs("grace")[0]["id"]))
    run.clear()
    assert run.state() == "success,success,success", run.errors()
    assert emulator.charges() == 3


def test_a_report_of_a_job_that_does_not_exist_pays_nothing(
    airflow: Airflow, emulator: Emulator, follow: Callable[[str], None]
) -> None:
    emulator.fault("create", reset="before")
    run = airflow.video()
    follow(command(run, "JOB_ID").replace("JOB_ID", "cm-mistyped"))
    run.clear()
    (error,) = run.errors()
    assert "SubmissionUncertain" in error
    assert "cm-mistyped" in error
    assert emulator.charges() == 0


def test_a_record_that_a_person_made_unreadable_is_not_taken_for_none(
    airflow: Airflow, emulator: Emulator, follow: Callable[[str], None]
) -> None:
    run = airflow.video()
    emulator.delete(emulator.jobs()[0]["id"])
    run.clear()
    forget = command(run, "DELETE")
    follow(
        forget.replace("DELETE", "PUT") + """ -H 'Content-Type: application/json' -d '{"value": "cm123"}'"""
    )
    run.clear()
    assert "JournalUnavailable" in run.errors()[0]
    assert emulator.charges() == 1


@pytest.fixture
def store_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Airflow's API answers 500 when the task state store is read or written, from some event on."""
    from airflow.state import get_state_backend
    from fastapi import HTTPException

    working = get_state_backend()

    def fail(call: str, *, once: Callable[[], object] = lambda: True) -> None:
        class Failing:
            def __getattr__(self, name: str) -> Any:
                if name == call and once():
                    raise HTTPException(500, "the database is away")
                return getattr(working, name)

        monkeypatch.setattr(f"{ROUTES}.task_state_store.get_state_backend", Failing)

    return fail


@both_modes
def test_a_journal_that_cannot_be_read_stops_before_anything_is_sent(
    airflow: Airflow, emulator: Emulator, store_fails: Callable[..., None], deferrable: bool
) -> None:
    store_fails("get")
    run = airflow.video(deferrable=deferrable, retries=1)
    assert run.state() == "failed"
    assert [type(error).__name__ for error in run.raised()] == ["JournalUnavailable"] * 2
    assert emulator.requests() == []


def test_a_journal_that_can_be_read_again_is_worth_a_retry(
    airflow: Airflow, emulator: Emulator, store_fails: Callable[..., None]
) -> None:
    answers = iter([True])
    store_fails("get", once=lambda: next(answers, False))
    assert airflow.video(retries=1).state() == "success"
    assert emulator.charges() == 1


@both_modes
def test_a_journal_that_cannot_be_read_on_a_retry_does_not_pay_again(
    airflow: Airflow, emulator: Emulator, store_fails: Callable[..., None], deferrable: bool
) -> None:
    emulator.fault("download", **ALWAYS)
    store_fails("get", once=lambda: emulator.requests("download"))
    run = airflow.video(output_path=f"{airflow.folder}/out/", deferrable=deferrable, retries=1)
    assert [type(error).__name__ for error in run.raised()] == ["DownloadFailed", "JournalUnavailable"]
    assert emulator.charges() == 1


def test_an_intent_that_cannot_be_written_stops_before_paying(
    airflow: Airflow, emulator: Emulator, store_fails: Callable[..., None]
) -> None:
    store_fails("set")
    run = airflow.video(timeout=0.1)
    assert "JournalUnavailable" in run.errors()[0]
    assert emulator.requests("create") == []


@both_modes
def test_a_file_that_the_next_try_could_not_know_as_its_own_is_not_downloaded(
    airflow: Airflow, emulator: Emulator, store_fails: Callable[..., None], deferrable: bool
) -> None:
    # As when the scheduler has died: its tasks go on for a while, and what they write is refused.
    store_fails("set", once=lambda: emulator.requests("get_video"))
    target = airflow.folder / "video.mp4"
    run = airflow.video(output_path=str(target), deferrable=deferrable, timeout=0.5)
    assert "JournalUnavailable" in run.errors()[0]
    assert emulator.requests("download") == []

    store_fails("none")
    run.clear()
    assert run.state() == "success", run.errors()
    assert target.read_bytes()[4:8] == b"ftyp"
    assert emulator.charges() == 1


def test_an_input_that_changed_between_two_tries_stops_until_a_person_clears(
    airflow: Airflow, emulator: Emulator
) -> None:
    emulator.fault("download", status=500, times=4)
    run = airflow.video(end_seconds="{{ ti.try_number }}", output_path=f"{airflow.folder}/out/", retries=3)
    mismatch = run.errors()[-1]
    assert "JobMismatch" in mismatch
    assert "end_seconds" in mismatch
    assert "image_file_path" not in mismatch
    assert emulator.jobs()[0]["id"] in mismatch
    assert len(run.errors()) == 2
    assert emulator.charges() == 1

    run.clear()
    assert run.state() == "success", run.errors()
    assert [job["request"]["end_seconds"] for job in emulator.jobs()] == [1, 3]
    assert emulator.charges() == 2


def test_a_retry_after_a_clear_is_a_retry_again(airflow: Airflow, emulator: Emulator) -> None:
    emulator.fault("download", status=500, times=12)  # two tries, and the one after the clear
    run = airflow.video(
        end_seconds="{{ 1 if ti.try_number < 4 else 2 }}", output_path=f"{airflow.folder}/out/", retries=1
    )
    run.clear()
    first, second = run.errors()
    assert "DownloadFailed" in first
    assert "JobMismatch" in second
    assert emulator.charges() == 1


def test_a_proxy_that_cannot_be_used_stops_before_anything_is_written_down(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("ALL_PROXY", "nonsense://127.0.0.1:1")
        # Nothing to upload: the client is first needed for the paid call itself.
        run = airflow.video(
            image_file_path=emulator.put_asset(b"a photo", "jpg"),
            audio_file_path=emulator.put_asset(b"a voice", "mp3"),
        )
    assert "InvalidConnection" in run.errors()[0]
    assert "ALL_PROXY" in run.errors()[0]
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


@both_modes
def test_a_target_that_cannot_be_written_names_the_paid_job(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    target = airflow.folder / "video.mp4"
    record_job = Journal.record_job

    def and_then_a_folder_takes_its_place(journal: Journal, job: PaidJob) -> bool:
        target.mkdir()
        return record_job(journal, job)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record_job", and_then_a_folder_takes_its_place)
        run = airflow.video(output_path=str(target), deferrable=deferrable)
    (job,) = emulator.jobs()
    assert f"The video of job {job['id']} stays at Magic Hour" in run.errors()[0]
    target.rmdir()
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 1


def test_a_job_that_was_refunded_is_paid_again_when_a_person_clears(
    airflow: Airflow, emulator: Emulator
) -> None:
    emulator.fault("create", ends="error:no_source_face")
    run = airflow.video(retries=1)
    assert run.state() == "failed"
    run.clear()
    assert run.state() == "success", run.errors()
    assert [entry["entry_type"] for entry in emulator.ledger()] == ["charge", "refund", "charge"]


def test_a_deleted_job_stays_an_error_until_the_task_is_made_to_forget_it(
    airflow: Airflow, emulator: Emulator, follow: Callable[[str], None]
) -> None:
    run = airflow.video()
    emulator.delete(emulator.jobs()[0]["id"])
    run.clear()
    assert "JobDeleted" in run.errors()[0]
    assert emulator.charges() == 1
    follow(command(run, "DELETE"))
    run.clear()
    assert run.state() == "success", run.errors()
    assert emulator.charges() == 2


def test_a_connection_to_another_host_does_not_pay_there(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = airflow.video()
    with Emulator(render="stub") as other:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", other.connection_json)
        run.clear()
        assert other.charges() == 0
        assert "JobMismatch" in run.errors()[0]
        assert emulator.url in run.errors()[0]
        assert other.url in run.errors()[0]


@both_modes
def test_a_file_of_another_that_appears_while_the_job_renders_is_not_overwritten(
    airflow: Airflow, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    target = airflow.folder / "video.mp4"
    record_job = Journal.record_job

    def and_then_another_writes(journal: Journal, job: PaidJob) -> bool:
        target.write_text("somebody else's")
        return record_job(journal, job)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "record_job", and_then_another_writes)
        run = airflow.video(output_path=str(target), deferrable=deferrable)
    assert "TargetExists" in run.errors()[0]
    assert target.read_text() == "somebody else's"

    target.unlink()
    run.clear()
    assert run.state() == "success", run.errors()
    assert target.read_bytes()[4:8] == b"ftyp"
    assert emulator.charges() == 1


def test_a_journal_that_is_wiped_on_success_is_warned_about(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AIRFLOW__STATE_STORE__CLEAR_ON_SUCCESS", "True")
    airflow.video()
    assert "clear_on_success" in caplog.text


def test_the_record_never_expires_and_holds_no_input_in_clear(airflow: Airflow) -> None:
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.utils.session import create_session

    run = airflow.video()
    with create_session() as session:
        row = session.query(TaskStateStoreModel).filter_by(dag_id=run.dag.dag_id).one()
    assert row.key == "magichour_journal"
    assert row.expires_at is None
    assert json.loads(row.value)["jobs"][0]["job_id"] == run.result()["job_id"]
    assert str(airflow.photo) not in row.value
