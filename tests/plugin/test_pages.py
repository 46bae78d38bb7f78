"""The pages and the play URLs, as Airflow's api-server serves them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest
from seeding import (
    address,
    dag,
    ended,
    intent,
    job,
    journal,
    make_image,
    make_video,
    reported,
    result,
    stamp,
    store,
    task,
    xcom,
)

from magichour_provider.api import events
from magichour_provider.links import watch_url
from magichour_provider.plugin import airflow_version, webhooks
from magichour_provider.plugin.index import WATCH_KEY
from magichour_provider.plugin.queries import PAGE_SIZE
from magichour_provider.plugin.rows import TaskKey
from magichour_provider.task.record import KEY as JOURNAL_KEY

if TYPE_CHECKING:
    from starlette.testclient import TestClient

    from magichour_provider.emulator import Emulator

Client = Callable[..., "TestClient"]
with_teams = pytest.mark.skipif(airflow_version() < (3, 2), reason="teams need Airflow 3.2")


# --- What is shown -----------------------------------------------------------------------------------------


def test_without_jobs_the_page_says_so(client: Client) -> None:
    answer = client().get("/magichour/")
    assert answer.status_code == 200
    assert "No jobs yet" in answer.text


def test_a_job_is_shown_with_its_cost_and_place(client: Client) -> None:
    key = task("greetings", map_index=3, label="ada")
    journal(key, job(ended=ended(output_path="s3://greetings/ada.mp4")))
    text = client().get("/magichour/").text
    for seen in ("ada", "221 credits", "s3://greetings/ada.mp4", "480 × 600", "293 kB", "Complete"):
        assert seen in text
    assert "/dags/greetings/runs/run1/tasks/video/mapped/3" in text


@pytest.mark.parametrize("number", [1, 12, PAGE_SIZE, PAGE_SIZE + 1])
def test_a_page_holds_fifty_jobs_newest_first(client: Client, number: int) -> None:
    for index in range(number):
        key = task("greetings", map_index=index, label=f"person-{index:03}")
        journal(key, job(ago=timedelta(minutes=index), ended=ended()))
    first = client().get("/magichour/").text
    assert first.count('class="job ') == min(number, PAGE_SIZE)
    assert first.index("person-000") < first.index(f"person-{min(number, PAGE_SIZE) - 1:03}") or number == 1
    second = client().get("/magichour/?page=2").text
    assert second.count('class="job ') == number - min(number, PAGE_SIZE)


def test_totals_count_what_was_charged_and_nothing_that_was_refunded(client: Client) -> None:
    journal(task("greetings", "made"), job(ended=ended(credits_charged=100)))
    journal(task("greetings", "failed", state="failed"), job(ended=ended("error")))
    journal(task("greetings", "renders", state="deferred"), job(credits_charged=30))
    journal(task("greetings", "lost", state="failed"), intents=[intent(estimated_credits=7)])
    text = " ".join(client().get("/magichour/").text.split())
    assert "<dt>Credits</dt><dd>130 <small>30 of them estimated</small>" in text
    assert "<dt>Refunded</dt><dd>1 " in text
    assert "<dt>Perhaps charged</dt><dd>7 " in text


def test_filters_narrow_rows_and_totals(client: Client) -> None:
    journal(task("greetings", "one"), job("cm-one", ended=ended()))
    journal(task("greetings", "two", state="failed"), job("cm-two", ended=ended("error")))
    journal(task("marketing", "three", run_id="other"), job("cm-three", ago=timedelta(days=3), ended=ended()))
    day = stamp(timedelta(days=3))[:10]

    def found(query: str) -> set[str]:
        text = client().get(f"/magichour/?{query}").text
        return {name for name in ("one", "two", "three") if f'id="job-cm-{name}"' in text}

    assert found("") == {"one", "two", "three"}
    assert found("dag_id=greetings") == {"one", "two"}
    assert found("run_id=other") == {"three"}
    assert found("task_id=two") == {"two"}
    assert found("state=failed") == {"two"}
    assert found(f"to={day}") == {"three"}
    assert found(f"from={day}&to={day}") == {"three"}
    assert found("from=&to=&state=&dag_id=") == {"one", "two", "three"}
    assert found("state=nonsense") == {"one", "two", "three"}
    assert found("dag_id=nobody") == set()


def test_run_and_task_show_their_own_jobs_only(client: Client) -> None:
    journal(task("greetings", map_index=0, label="ada"), job("cm-ada", ended=ended()))
    journal(task("greetings", map_index=1, label="alan"), job("cm-alan", ended=ended()))
    journal(task("greetings", "voice"), job("cm-voice", ended=ended()))
    journal(task("greetings", run_id="run2"), job("cm-later", ended=ended()))

    def found(path: str) -> set[str]:
        text = client().get(f"/magichour/dags/greetings/runs/{path}").text
        return {name for name in ("ada", "alan", "voice", "later") if f'id="job-cm-{name}"' in text}

    assert found("run1/") == {"ada", "alan", "voice"}
    assert found("run1/tasks/video/") == {"ada", "alan"}
    assert found("run1/tasks/video/1/") == {"alan"}
    assert found("run1/tasks/voice/-1/") == {"voice"}
    assert found("run1/tasks/voice/{MAP_INDEX}/") == {"voice"}  # as the UI leaves it for a task without one
    assert client().get("/magichour/dags/greetings/runs/run1/tasks/voice/x/").status_code == 404


def test_the_watch_button_leads_to_the_task_inside_airflow(client: Client) -> None:
    run_id = "manual__2026-11-26T01:00:00+00:00"
    key = task("greetings", "group.video", run_id=run_id, map_index=2, label="ada")
    journal(key, job("cm-ada", ended=ended()))
    url = watch_url(key)
    assert not url.startswith("/"), "the path of [api] base_url is lost"
    location = client().get(f"/{url}").headers["location"]
    frame, page = location[: len("/plugin/magichour")], location[len("/plugin/magichour") :]
    assert frame == "/plugin/magichour"
    assert 'id="job-cm-ada"' in client().get(page).text


@pytest.mark.parametrize("path", ["//evil.example/", "/evil.example/", "\\evil.example"])
def test_the_watch_button_leads_nowhere_else(client: Client, path: str) -> None:
    location = client().get(f"/magichour/watch/{path}").headers["location"]
    assert location.removeprefix("/plugin/magichour").startswith("/magichour/")  # the frame is of Airflow 3.3


@pytest.mark.parametrize(
    ("state", "seen"),
    [("failed", "stopped before it made a paid call"), ("running", "has not made a paid call yet")],
)
def test_a_task_that_paid_for_nothing_says_so(client: Client, state: str, seen: str) -> None:
    pytest.importorskip("airflow.state", reason="below Airflow 3.3 the page knows finished jobs only")
    key = task("greetings", state=state)
    text = client().get(address(key)).text
    assert "Nothing was charged" in text
    assert seen in text


def test_what_needs_a_person_is_on_top_with_what_to_do(client: Client) -> None:
    journal(task("greetings", "fine"), job(ended=ended()))
    journal(task("greetings", "lost", state="failed"), intents=[intent("open")])
    text = client().get("/magichour/").text
    assert text.index("1 job needs you") < text.index("fine")
    assert "Clear the task" in text


def test_a_report_from_outside_changes_what_is_asked(client: Client, fresh_reads: None) -> None:
    lost = intent("open")
    key = journal(task("greetings", "lost", state="failed"), intents=[lost])
    assert "not known whether this was charged" in client().get("/magichour/").text
    reported(key, lost["short_id"], "cm-reported")
    assert "the job was reported later" in client().get("/magichour/").text


def test_the_page_says_whether_webhooks_arrive_for_its_connections(
    client: Client, monkeypatch: pytest.MonkeyPatch, fresh_reads: None
) -> None:
    arrived = events.Arrivals()
    arrived.take(events.Event("video.completed", "cm1", None, "complete"))
    seen = {"magichour_default": arrived, "of_another_dag": events.Arrivals()}
    monkeypatch.setattr(events, "arrivals", seen)
    monkeypatch.setattr(webhooks.receiver, "refusals", Counter({"wrong signature": 2}))
    journal(task("a"), job(ended=ended()))
    page = client().get("/magichour/").text
    assert "The last webhook event (video.completed) arrived" in page
    assert "2 × wrong signature" in page
    assert "of_another_dag" not in page
    journal(task("b", run_id="run2"), job(conn_id="quiet", ended=ended()))
    assert "No webhook event has arrived" in client().get("/magichour/").text


def test_a_sensor_shows_the_job_that_another_task_submitted(client: Client, fresh_reads: None) -> None:
    journal(task("greetings", "submit"), job("cm-one"))
    wait = task("greetings", "wait")
    assert "Submitted" in client().get("/magichour/").text
    result(wait, job_id="cm-one", output_path="s3://greetings/one.mp4", credits_charged=200)
    text = client().get(address(wait)).text
    for seen in ("Complete", "s3://greetings/one.mp4", "200 credits"):
        assert seen in text


def submitted(job_id: str, task_id: str = "submit") -> TaskKey:
    """A task that has paid, and did not wait for the end."""
    key = journal(task("greetings", task_id), job(job_id))
    return result(key, job_id=job_id, status="queued", credits_charged=221, duration_seconds=None)


def watched(job_id: str, **more: Any) -> dict[str, Any]:
    """The job in the record of a sensor."""
    return {"job_id": job_id, "watched": True, "conn_id": "magichour_default", "job_type": "video", **more}


def test_a_job_that_a_sensor_watched_is_shown_and_counted_once(client: Client) -> None:
    submitted("cm-one")
    path = "s3://greetings/one.mp4"
    for name in ("wait", "wait_too"):
        wait = task("greetings", name)
        journal(wait, watched("cm-one", ended=ended(credits_charged=200, output_path=path)))
        result(wait, job_id="cm-one", output_path=path, credits_charged=200)
    for page in ("/magichour/", address(wait), "/magichour/?task_id=wait"):
        text = client().get(page).text
        assert text.count('id="job-cm-one"') == 1
        assert path in text
        assert "200 credits" in text
        assert "221 credits" not in text
        assert "/submit/-1/play/0" in text, "with the connection of the task that paid"


@pytest.mark.parametrize(
    ("status", "shown"),
    [("error", "Failed, refunded"), ("canceled", "Canceled, refunded"), ("deleted", "221 credits")],
)
def test_a_job_of_which_only_sensors_saw_that_it_made_nothing(
    client: Client, status: str, shown: str
) -> None:
    submitted("cm-one")
    for name in ("wait", "wait_too"):
        wait = task("greetings", name, state="failed")
        journal(wait, watched("cm-one", ended=ended(status, credits_charged=None, error_code="no_face")))
    text = client().get("/magichour/").text
    assert text.count('id="job-cm-one"') == 1
    assert shown in text
    assert "no_face" in text
    assert "The task did not wait for the job" not in text


def test_a_job_from_elsewhere_that_a_sensor_could_not_deliver_needs_a_person(client: Client) -> None:
    journal(
        task("greetings", "wait", state="failed"), watched("cm-one", output_path="s3://greetings/one.mp4")
    )
    assert "1 job needs you" in client().get("/magichour/").text


def test_what_a_sensor_fetched_is_shown_beside_a_paid_call_whose_answer_is_lost(client: Client) -> None:
    lost = intent("open")
    payer = journal(task("greetings", state="failed"), intents=[lost])
    reported(payer, lost["short_id"], "cm-one")
    end = ended(output_path="s3://greetings/one.mp4")
    journal(task("greetings", "wait"), watched("cm-one", ended=end))
    text = client().get("/magichour/").text
    assert "1 job needs you" in text
    assert "s3://greetings/one.mp4" in text


def test_a_voice_that_a_sensor_watched_is_shown_as_one(client: Client) -> None:
    journal(task("greetings", "wait"), watched("cm-voice", job_type="audio", ended=ended()))
    assert 'data-element="audio"' in client().get("/magichour/").text


def test_a_sensor_of_a_job_from_elsewhere_has_a_row_of_its_own(client: Client) -> None:
    result(task("greetings", "wait"), job_id="cm-elsewhere")
    assert 'id="job-cm-elsewhere"' in client().get("/magichour/").text


def test_the_result_of_a_task_that_is_not_ours_is_not_read(client: Client) -> None:
    xcom(task("greetings", "other"), "return_value", {"job_id": "bq-1", "status": "complete"})
    assert "bq-1" not in client().get("/magichour/").text


@pytest.mark.parametrize(
    "setting", ["AIRFLOW__WORKERS__STATE_STORE_BACKEND", "AIRFLOW__STATE_STORE__BACKEND"]
)
def test_with_another_backend_finished_jobs_are_shown_and_the_page_says_so(
    client: Client, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result(task("greetings"), job_id="cm-done", output_path="s3://greetings/done.mp4")
    monkeypatch.setenv(setting, "company.state.Backend")
    text = client().get("/magichour/").text
    assert "Only finished jobs are shown" in text
    assert "s3://greetings/done.mp4" in text


def test_an_airflow_without_a_task_state_store_shows_finished_jobs(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magichour_provider.plugin.index.StoreModel", None)
    key = result(task("greetings"), job_id="cm-done")
    for path in ("/magichour/", address(key)):
        text = client().get(path).text
        assert "Only finished jobs are shown" in text
        assert 'id="job-cm-done"' in text


def test_a_journal_that_cannot_be_read_is_counted_and_breaks_nothing(client: Client) -> None:
    journal(task("greetings", "fine"), job("cm-fine", ended=ended()))
    store(task("greetings", "odd"), JOURNAL_KEY, "s3://a-reference")
    text = client().get("/magichour/").text
    assert "1 journal could not be read" in text
    assert 'id="job-cm-fine"' in text


def test_a_page_shows_what_has_changed_and_forgets_what_was_deleted(
    client: Client, fresh_reads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.utils.session import create_session
    from sqlalchemy import text

    key = journal(task("greetings", state="deferred"), job("cm-one"))
    assert "Rendering" in client().get("/magichour/").text
    journal(key, job("cm-one", ended=ended()))
    assert "Rendering" not in client().get("/magichour/").text
    with create_session() as session:
        session.execute(text("delete from task_state_store"))
    monkeypatch.setattr("magichour_provider.plugin.index.FULL_READ_EVERY", 0.0)
    assert "No jobs yet" in client().get("/magichour/").text


def test_text_from_anywhere_is_only_text(client: Client) -> None:
    nasty = '"><script>alert(1)</script>'
    key = task("greetings", map_index=0, label=nasty)
    journal(key, job(nasty, ended=ended("error", error_code=nasty, error_message=nasty, output_path=nasty)))
    for path in ("/magichour/", f"/magichour/?run_id={quote(nasty)}&dag_id={quote(nasty)}"):
        assert "<script>alert" not in client().get(path).text


# --- Who may see it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["VIEWER", "USER", "OP", "ADMIN"])
def test_every_role_that_may_read_xcoms_sees_the_jobs(client: Client, role: str) -> None:
    journal(task("greetings"), job("cm-one", ended=ended()))
    assert 'id="job-cm-one"' in client(role).get("/magichour/").text


PATHS = [
    "/magichour/",
    "/magichour/?dag_id=theirs",
    "/magichour/dags/theirs/runs/run1/",
    "/magichour/dags/theirs/runs/run1/tasks/video/",
    "/magichour/dags/theirs/runs/run1/tasks/video/-1/",
    "/magichour/dags/theirs/runs/run1/tasks/video/-1/play/0",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_stranger_sees_nothing(client: Client, path: str) -> None:
    journal(task("theirs"), job("cm-one", ended=ended()))
    answer = client(None).get(path)
    assert answer.status_code == 401
    assert "cm-one" not in answer.text


@pytest.mark.parametrize("path", PATHS)
def test_a_dag_that_a_user_may_not_read_is_not_seen(
    client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.app import get_auth_manager

    journal(task("theirs"), job("cm-theirs", ended=ended(output_path="s3://theirs.mp4")))
    journal(task("ours"), job("cm-ours", ended=ended()))
    manager = type(get_auth_manager())
    may = manager.is_authorized_dag
    monkeypatch.setattr(
        manager,
        "is_authorized_dag",
        lambda self, **asked: (
            (not asked.get("details") or asked["details"].id != "theirs") and may(self, **asked)
        ),
    )
    answer = client("VIEWER").get(path)
    assert answer.status_code == (200 if path == "/magichour/" else 403)
    assert "theirs" not in answer.text.replace(path, "")
    assert ("cm-ours" in answer.text) == (path == "/magichour/")


@with_teams
def test_a_team_does_not_see_the_jobs_of_another_team(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.team import Team
    from airflow.utils.session import create_session

    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    for name in ("red", "blue"):
        dag(f"{name}_dag", bundle=f"{name}-bundle")
        with create_session() as session:
            team = session.get(Team, name) or Team(name=name)
            session.get_one(DagBundleModel, f"{name}-bundle").teams = [team]
        journal(task(f"{name}_dag"), job(f"cm-{name}", ended=ended()))
    red = client("USER", ["red"])
    text = red.get("/magichour/").text
    assert "cm-red" in text
    assert "blue" not in text
    assert red.get("/magichour/?dag_id=blue_dag").status_code == 403
    assert red.get("/magichour/dags/blue_dag/runs/run1/tasks/video/-1/play/0").status_code == 403


def test_a_sensors_page_shows_nothing_of_a_dag_that_may_not_be_read(client: Client) -> None:
    journal(task("theirs"), job("cm-one", ended=ended(output_path="s3://theirs/secret.mp4")))
    result(task("ours", "wait"), job_id="cm-one", output_path="s3://ours/one.mp4")
    text = client().get("/magichour/dags/ours/runs/run1/tasks/wait/-1/").text
    assert "s3://ours/one.mp4" in text
    assert "s3://theirs" not in text


def test_pages_write_nothing(client: Client) -> None:
    from airflow import settings
    from sqlalchemy import event

    key = journal(task("greetings", state="failed"), job(ended=ended()), intents=[intent()])
    written: list[str] = []

    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA", "WITH")):
            written.append(statement)

    event.listen(settings.engine, "before_cursor_execute", note)
    try:
        for path in ("/magichour/", address(key), f"{address(key)}-1/play/0"):
            client().get(path)
    finally:
        event.remove(settings.engine, "before_cursor_execute", note)
    assert written == []


# --- Playing -----------------------------------------------------------------------------------------------


def play(client: TestClient, *, number: int = 0, task_id: str = "video") -> Any:
    return client.get(f"/magichour/dags/greetings/runs/run1/tasks/{task_id}/-1/play/{number}")


def test_a_click_leads_to_a_fresh_signed_url(client: Client, emulator: Emulator) -> None:
    job_id = make_video(emulator)
    journal(task("greetings"), job(job_id, host=emulator.url, ended=ended()))
    before = len(emulator.requests("get_video"))
    assert client().get("/magichour/").status_code == 200
    assert len(emulator.requests("get_video")) == before, (
        "the vendor is asked when somebody clicks, and not before"
    )
    answer = play(client("VIEWER"))
    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "no-store"
    video = httpx.get(answer.headers["location"])
    assert video.status_code == 200
    assert b"ftyp" in video.content[:16]
    assert len(emulator.requests("get_video")) == before + 1


def test_an_image_is_counted_as_one_and_a_click_leads_to_the_first(
    client: Client, emulator: Emulator
) -> None:
    job_id = make_image(emulator)
    made = job(job_id, job_type="image", host=emulator.url, ended=ended(output_path="s3://art/1.png"))
    journal(task("greetings"), made)
    page = client().get("/magichour/").text
    assert 'aria-label="Show video"' in page
    assert 'data-element="img"' in page
    assert "<dt>Image</dt><dd>1</dd>" in page
    assert "Play " not in page
    answer = play(client())
    assert httpx.get(answer.headers["location"]).content.startswith(b"\x89PNG")
    assert job_id in answer.headers["location"]


def test_the_job_is_found_by_its_place_in_the_journal(client: Client, emulator: Emulator) -> None:
    first, second = make_video(emulator), make_video(emulator)
    of: dict[str, Any] = {"host": emulator.url, "ended": ended()}
    journal(task("greetings"), job(first, **of), job(second, **of))
    for number, job_id in enumerate((first, second)):
        assert job_id in play(client(), number=number).headers["location"]
    assert play(client(), number=2).status_code == 404
    assert play(client(), task_id="other").status_code == 404
    assert client().get("/magichour/dags/greetings/runs/run1/tasks/video/-1/play/-1").status_code == 404


def test_the_key_goes_to_no_host_that_a_journal_names(client: Client, emulator: Emulator) -> None:
    job_id = make_video(emulator)
    with_other = task("greetings")
    journal(with_other, job(job_id, host="https://evil.example", ended=ended()))
    before = len(emulator.requests())
    answer = play(client())
    assert answer.status_code == 409
    assert "Magic Hour was not asked" in answer.text
    assert len(emulator.requests()) == before


def test_a_connection_that_the_api_server_cannot_read_is_named(client: Client) -> None:
    journal(task("greetings"), job(conn_id="only_on_workers", ended=ended()))
    answer = play(client())
    assert answer.status_code == 424
    assert "cannot read the connection 'only_on_workers'" in answer.text


def test_a_deleted_video_says_so(client: Client, emulator: Emulator) -> None:
    job_id = make_video(emulator)
    journal(task("greetings"), job(job_id, host=emulator.url, ended=ended()))
    emulator.delete(job_id)
    answer = play(client())
    assert answer.status_code == 410
    assert "deleted" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def test_a_vendor_that_does_not_answer_is_asked_once(client: Client, emulator: Emulator) -> None:
    job_id = make_video(emulator)
    journal(task("greetings"), job(job_id, host=emulator.url, ended=ended()))
    emulator.fault("get_video", status=500, times=5)
    before = len(emulator.requests("get_video"))
    assert play(client()).status_code == 502
    assert len(emulator.requests("get_video")) == before + 1


def test_a_result_is_played_with_the_connection_of_its_task(client: Client, emulator: Emulator) -> None:
    from airflow.models.renderedtifields import RenderedTaskInstanceFields
    from airflow.utils.session import create_session
    from sqlalchemy import insert

    job_id = make_video(emulator)
    key = result(task("greetings"), job_id=job_id)
    assert play(client()).status_code == 409, "without the connection's name it is not asked for"
    with create_session() as session:
        session.execute(
            insert(RenderedTaskInstanceFields.__table__).values(
                **key._asdict(), rendered_fields={"magichour_conn_id": "magichour_default"}
            )
        )
    assert play(client()).status_code == 307


@with_teams
def test_a_teams_job_is_asked_for_with_the_teams_connection(
    client: Client, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.team import Team
    from airflow.utils.session import create_session

    job_id = make_video(emulator)
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    monkeypatch.delenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT")
    monkeypatch.setenv("AIRFLOW_CONN__RED___MAGICHOUR_DEFAULT", emulator.connection_json)
    dag("red_dag", bundle="red-bundle")
    with create_session() as session:
        team = session.get(Team, "red") or Team(name="red")
        session.get_one(DagBundleModel, "red-bundle").teams = [team]
    journal(task("red_dag"), job(job_id, host=emulator.url, ended=ended()))
    answer = client("USER", ["red"]).get("/magichour/dags/red_dag/runs/run1/tasks/video/-1/play/0")
    assert answer.status_code == 307


# --- The page's own safety ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/magichour/", "/magichour/nothing-here", "/magichour/dags/a/runs/b/"])
def test_every_page_forbids_scripts_that_are_not_files(client: Client, path: str) -> None:
    answer = client().get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script>" not in answer.text
    assert " style=" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_app_publishes_no_schema(client: Client) -> None:
    for path in ("docs", "redoc", "openapi.json"):
        assert client().get(f"/magichour/{path}").status_code == 404


def test_watch_is_in_the_xcom_that_marks_our_tasks() -> None:
    assert WATCH_KEY == "_link_MagicHourWatchLink"


def test_airflow_lists_the_page_under_browse(client: Client) -> None:
    plugins = client().get("/api/v2/plugins").json()["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "magichour"]
    (view,) = ours["external_views"]
    assert (view["category"], view["destination"], view["href"]) == ("browse", "nav", "magichour/")
    assert json.dumps(ours).count("dag_run") == 0, "no tab on every run of the installation"
    for icon in ("icon", "icon_dark_mode"):
        assert client().get(f"/{view[icon]}").headers["content-type"].startswith("image/svg")
