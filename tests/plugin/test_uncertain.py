"""``python -m magichour_provider uncertain`` against Airflow's own API and the emulator."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("airflow.models.task_state_store", reason="journals are read from there: Airflow 3.3")

import seeding

from magichour_provider import uncertain
from magichour_provider.__main__ import main
from magichour_provider.emulator import Emulator
from magichour_provider.plugin.rows import TaskKey
from magichour_provider.task.record import KEY as JOURNAL_KEY
from magichour_provider.task.record import Report
from magichour_provider.task.stores import REPORTED_KEY

if TYPE_CHECKING:
    from starlette.testclient import TestClient

API_SERVERS = re.compile(r"\d{4}-\d\d-\d\dT\S+ \[")  # the beginning of its log lines

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def token(client: Callable[..., TestClient]) -> Callable[[str], str]:
    return lambda role: client(role).headers["Authorization"].removeprefix("Bearer ")


@pytest.fixture
def command(
    served: str,
    token: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """The exit code of the command, and what it printed."""
    monkeypatch.setenv("AIRFLOW_URL", served)
    monkeypatch.setenv("AIRFLOW_TOKEN", token("ADMIN"))

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["uncertain", *arguments])
        printed = capsys.readouterr()
        lines = (printed.out + printed.err).splitlines(keepends=True)
        return code, "".join(line for line in lines if not API_SERVERS.match(line))

    return run


@pytest.fixture
def answers(tmp_path: Path) -> Callable[[str], str]:
    """The path of a file with these lines."""

    def write(lines: str) -> str:
        path = tmp_path / "answers.csv"
        path.write_text(lines)
        return str(path)

    return write


def lose(emulator: Emulator, *, state: str = "failed", **of_task: Any) -> tuple[TaskKey, str]:
    """A task that lost the answer to its paid call: its key, and the short id."""
    intent = seeding.intent("open", ago=timedelta(minutes=1), host=emulator.url)
    key = seeding.task("videos", state=state, **of_task)
    seeding.journal(key, intents=[intent])
    return key, intent["short_id"]


def stored(key: TaskKey, name: str) -> Any:
    from airflow.state import TaskScope, get_state_backend

    scope = TaskScope(dag_id=key.dag_id, run_id=key.run_id, task_id=key.task_id, map_index=key.map_index)
    found = get_state_backend().get(scope, name)
    return json.loads(found) if found else None


# --- the list ---


def test_the_list_has_each_lost_answer_with_its_task_and_try(command: Command, emulator: Emulator) -> None:
    _, mapped = lose(emulator, map_index=3)
    _, parked = lose(emulator, run_id="manual__2026-11-26T01:02:03+00:00", state="awaiting_input")
    code, said = command()
    assert code == 0
    assert f"{mapped}  " in said
    assert "1      221  failed          -             videos / run1 / video[3]" in said
    assert f"{parked}  " in said
    assert "awaiting_input  -             videos / manual__2026-11-26T01:02:03+00:00 / video\n" in said
    assert "2 open, about 442 credits at stake" in said


def test_the_list_leaves_out_what_needs_nobody(command: Command, emulator: Emulator) -> None:
    lose(emulator, state="running")
    settled = [seeding.intent(outcome) for outcome in ("job", "no_job", "refused", "adopted", "paid_again")]
    seeding.journal(seeding.task("settled", state="failed"), intents=settled)
    seeding.task("of_somebody_else", state="failed")
    assert "0 open" in command()[1]


def test_the_list_is_complete_when_it_takes_several_pages(
    command: Command, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertain, "PAGE", 2)
    short_ids = {lose(emulator, map_index=index)[1] for index in range(5)}
    rows = csv.DictReader(io.StringIO(command("--csv")[1]))
    assert {row["short_id"] for row in rows} == short_ids


def test_the_list_can_be_of_one_dag(command: Command, emulator: Emulator) -> None:
    _, short_id = lose(emulator)
    assert short_id in command("--dag", "videos")[1]
    assert short_id not in command("--dag", "another")[1]


def test_a_journal_that_cannot_be_read_is_named_and_hides_no_other(
    command: Command, emulator: Emulator
) -> None:
    seeding.store(seeding.task("damaged", state="failed"), JOURNAL_KEY, {"jbos": []})
    _, short_id = lose(emulator)
    code, said = command()
    assert code == 0
    assert short_id in said
    assert "warning: damaged / run1 / video: what is written under magichour_journal cannot be read" in said


# --- settling ---


def test_a_filled_in_list_is_written_where_the_tasks_read_it(
    command: Command, answers: Callable[[str], str], emulator: Emulator
) -> None:
    key, short_id = lose(emulator)
    lose(emulator, task_id="not_known_yet")
    before = stored(key, JOURNAL_KEY)
    job_id = seeding.make_video(emulator, f"video [mh-{short_id}]")
    listed = command("--csv")[1]
    filled_in = answers(listed.replace(f"{short_id},,", f"{short_id},{job_id},"))
    code, said = command(filled_in)
    assert (code, stored(key, REPORTED_KEY)) == (0, None), "a dry run wrote"
    assert f": {short_id}, adopt {job_id}: valid, for videos / run1 / video\n1 of 1 are valid" in said
    assert "Nothing is written yet" in said
    assert command(filled_in, "--apply")[0] == 0
    assert command(filled_in, "--apply")[0] == 0
    [report] = Report.all_of(stored(key, REPORTED_KEY), short_id)
    assert (report.job_id, report.conn_id, report.source) == (job_id, "magichour_default", "command line")
    assert stored(key, JOURNAL_KEY) == before
    assert len(emulator.jobs()) == 1


def test_reports_that_are_there_are_kept(
    command: Command, answers: Callable[[str], str], emulator: Emulator
) -> None:
    key, short_id = lose(emulator)
    seeding.store(key, REPORTED_KEY, {short_id: [{"job_id": "cm_of_another"}, "by hand"], "00000000": "x"})
    job_id = seeding.make_video(emulator, f"video [mh-{short_id}]")
    assert command(answers(f"{short_id},{job_id}"), "--apply")[0] == 0
    written = stored(key, REPORTED_KEY)
    assert written[short_id][:2] == [{"job_id": "cm_of_another"}, "by hand"]
    assert written[short_id][2]["job_id"] == job_id
    assert written["00000000"] == "x"


def test_paying_again_is_allowed_by_name(
    command: Command, answers: Callable[[str], str], emulator: Emulator
) -> None:
    key, short_id = lose(emulator)
    code, said = command(answers(f"# after the fire\n[mh-{short_id}], Pay Again\n"), "--apply")
    assert code == 0
    assert "1 of 1 are valid; 1 pay again, about 221 credits at stake." in said
    assert Report.all_of(stored(key, REPORTED_KEY), short_id)[0].pay_again


def test_paying_again_is_refused_when_the_job_has_reported_itself(
    command: Command, answers: Callable[[str], str], emulator: Emulator
) -> None:
    key, short_id = lose(emulator)
    job_id = seeding.make_video(emulator, f"video [mh-{short_id}]")
    seeding.reported(key, short_id, job_id)
    code, said = command(answers(f"{short_id},pay again"), "--apply")
    assert code == 1
    assert f"job {job_id} is reported already, and is the job of this call; clear the task" in said
    assert len(stored(key, REPORTED_KEY)[short_id]) == 1


def test_adopting_is_refused_where_paying_again_is_written_already(
    command: Command, answers: Callable[[str], str], emulator: Emulator
) -> None:
    """The task would read the first one, and pay."""
    key, short_id = lose(emulator)
    seeding.store(key, REPORTED_KEY, {short_id: [{"pay_again": True}]})
    job_id = seeding.make_video(emulator, f"video [mh-{short_id}]")
    code, said = command(answers(f"{short_id},{job_id}"), "--apply")
    assert code == 1
    assert (
        "'pay again' is reported already and counts; delete the task's key magichour_reported first" in said
    )


def test_a_wrong_job_is_not_written_and_the_others_are(
    command: Command, answers: Callable[[str], str], emulator: Emulator
) -> None:
    tasks = [lose(emulator, map_index=index) for index in range(4)]
    (_, right), (_, renamed), (_, unknown), (early_key, early) = tasks
    job_id = seeding.make_video(emulator, f"video [mh-{right}]")
    other = seeding.make_video(emulator, "renamed")
    old = seeding.make_video(emulator, f"video [mh-{early}]")
    seeding.journal(
        early_key, intents=[seeding.intent(short_id=early, ago=-timedelta(hours=1), host=emulator.url)]
    )
    lines = f"{right},{job_id}\n{renamed},{other}\n{unknown},cm404\n{early},{old}\n00000000,cm1\n"
    code, said = command(answers(lines), "--apply")
    assert code == 1
    assert (
        f"line 2: {renamed}, adopt {other}: not valid, job {other} is not the job of this call: its name does"
        in said
    )
    assert f"line 3: {unknown}, adopt cm404: not valid, the account has no video job cm404" in said
    assert "before the paid call was sent" in said
    assert "line 5: 00000000, adopt cm1: not valid, no stopped task has an open call" in said
    assert [stored(key, REPORTED_KEY) is not None for key, _ in tasks] == [True, False, False, False]


def test_a_key_from_the_environment_goes_to_no_address_of_a_journal(
    command: Command, answers: Callable[[str], str], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, short_id = lose(emulator)
    job_id = seeding.make_video(emulator, f"video [mh-{short_id}]")
    monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
    monkeypatch.setenv("MAGICHOUR_API_KEY", emulator.api_key)
    before = len(emulator.requests())
    code, said = command(answers(f"{short_id},{job_id}"))
    assert code == 1
    assert f"it was paid on {emulator.url}, and MAGICHOUR_API_KEY is for https://api.magichour.ai" in said
    assert len(emulator.requests()) == before
    assert command(answers(f"{short_id},{job_id}"), "--magichour-url", emulator.url)[0] == 0


# --- what cannot be used ---


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            "1a2b3c4d,cm1\n\n1a2b,cm2",
            "line 3, short_id='1a2b': is not the 8 digits and letters of a short id",
        ),
        ("1a2b3c4d", "line 1, job_id='': is empty; write the id of the job, or 'pay again'"),
        ("1a2b3c4d,cm1\n1a2b3c4d,cm2", "line 2, short_id='1a2b3c4d': is in line 1 too; keep one"),
        (
            "1a2b3c4d,cm1\n1a2b3c4e,cm1",
            "line 2, job_id='cm1': is in line 1 too; a job belongs to one paid call",
        ),
        ("task,Job_ID,Short_ID\nx,cm1,1a2b", "line 2, short_id='1a2b': is not the 8 digits"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_with_its_remedy(
    command: Command, answers: Callable[[str], str], lines: str, sentence: str
) -> None:
    code, said = command(answers(lines), "--apply")
    assert code == 2
    assert said.startswith(f"error: {sentence}")
    assert said.count("\n") == 1


def test_a_file_that_is_not_there_is_named(command: Command, tmp_path: Path) -> None:
    assert command(str(tmp_path / "none.csv"))[1].startswith(
        f"error: file='{tmp_path}/none.csv': cannot be read"
    )


def test_what_cannot_be_used_of_airflow_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, emulator: Emulator
) -> None:
    lose(emulator)
    assert "AIRFLOW_TOKEN: it is not valid" in command("--token", "wrong")[1]
    assert "Airflow's API does not answer there" in command("--url", "http://127.0.0.1:9")[1]
    assert "Airflow's API does not answer there" in command("--url", "ftp:/airflow")[1]
    monkeypatch.setattr("airflow.__version__", "3.2.1")
    assert "its version is 3.2.1, and this needs Airflow 3.3 or newer" in command()[1]
    monkeypatch.delenv("AIRFLOW_TOKEN")
    assert "error: AIRFLOW_TOKEN is not set: put a token of its API there, or use" in command()[1]


def test_a_user_who_may_only_read_cannot_write(
    command: Command, answers: Callable[[str], str], emulator: Emulator, token: Callable[[str], str]
) -> None:
    key, short_id = lose(emulator)
    code, said = command(answers(f"{short_id},pay again"), "--apply", "--token", token("VIEWER"))
    assert code == 2
    assert "its user may not PUT dags/videos/dagRuns/run1/taskInstances/video/state-store" in said
    assert stored(key, REPORTED_KEY) is None
