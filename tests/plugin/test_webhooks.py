"""The endpoint of webhooks, attacked over real sockets; and what an event does to tasks in the database."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("airflow.models.task_state_store", reason="journals are read from there: Airflow 3.3")

import seeding
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from serving import serving
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select, update
from sqlalchemy.engine import Engine

from magichour_provider.api import events
from magichour_provider.emulator import Emulator
from magichour_provider.emulator.webhooks import signed
from magichour_provider.operators import TalkingPhotoOperator
from magichour_provider.plugin import effects, index, webhooks
from magichour_provider.plugin.rows import TaskKey
from magichour_provider.triggers import JobTrigger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

SECRET = "whsec_1"
CONNECTION = {"conn_type": "magichour", "password": "mhk_live_1", "extra": {"webhook_secret": SECRET}}


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, **changed: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(CONNECTION | changed))


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The plugin's app, as the api-server serves it, without the rest of Airflow's."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    from magichour_provider.plugin import serve

    with serving(Starlette(routes=[Mount("/magichour", serve)])) as address:
        yield address


@pytest.fixture(autouse=True)
def fresh(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has just been started, with an empty database."""
    from sqlalchemy import text

    monkeypatch.setattr(index, "shared", index.Index())
    monkeypatch.setattr(webhooks, "receiver", webhooks.WebhookReceiver())
    monkeypatch.setattr(effects, "REREAD", 0.01)
    monkeypatch.setattr(effects, "WAKE_AGAIN", ())
    monkeypatch.setattr(webhooks, "ANSWER_SECONDS", 30.0)  # a crowded machine is no fault of the endpoint
    events.arrivals.clear()
    connect(monkeypatch, "magichour_default")
    with create_session() as session:
        for table in ("task_state_store", "task_instance", "dag_run", "log", "trigger"):
            session.execute(text(f"delete from {table}"))


def payload(job_id: str = "cm1", short_id: str = "1a2b3c4d", kind: str = "video.completed") -> bytes:
    job = {"id": job_id, "name": f"dag.task [mh-{short_id}]", "status": "complete"}
    return json.dumps({"type": kind, "payload": job}).encode()


class Vendor:
    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=15)

    def send(
        self,
        body: bytes | Iterator[bytes] = b"",
        *,
        conn_id: str = "magichour_default",
        secret: str = SECRET,
        headers: dict[str, Any] | None = None,
    ) -> httpx.Response:
        body = body or payload()
        signature = signed(secret, body) if isinstance(body, bytes) else {}
        return self._client.post(
            f"/magichour/webhooks/{conn_id}", content=body, headers={**signature, **(headers or {})}
        )


@pytest.fixture
def vendor(address: str) -> Vendor:
    return Vendor(address)


@contextmanager
def queries() -> Iterator[list[str]]:
    """The queries that any thread makes in this block."""
    made: list[str] = []

    def note(*given: Any) -> None:
        made.append(given[2])

    sqlalchemy_event.listen(Engine, "before_cursor_execute", note)
    yield made
    sqlalchemy_event.remove(Engine, "before_cursor_execute", note)


# --- what the endpoint accepts ---


def test_an_event_that_is_signed_is_taken(vendor: Vendor) -> None:
    assert vendor.send().status_code == 204
    assert events.arrivals["magichour_default"].last_type == "video.completed"


def test_while_a_secret_is_replaced_both_are_right(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, "magichour_default", extra={"webhook_secret": f"whsec_2, {SECRET}"})
    assert vendor.send().status_code == 204
    assert vendor.send(payload("cm2"), secret="whsec_2").status_code == 204
    assert vendor.send(payload("cm3"), secret="whsec_3").status_code == 401
    assert vendor.send(payload("cm4"), secret=f"whsec_2, {SECRET}").status_code == 401


def test_a_secret_that_was_taken_away_is_wrong_within_a_minute(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "KEEP_SECRETS", 0.0)
    assert vendor.send().status_code == 204
    connect(monkeypatch, "magichour_default", extra={"webhook_secret": "whsec_2"})
    assert vendor.send(payload("cm2")).status_code == 401
    connect(monkeypatch, "magichour_default", extra={})
    assert vendor.send(payload("cm3"), secret="").status_code == 401


FORGERIES: dict[str, dict[str, Any]] = {
    "wrong secret": {"secret": "whsec_2"},
    "no secret": {"secret": ""},
    "no such connection": {"conn_id": "no_such"},
    "a connection without a secret": {"conn_id": "silent"},
    "a connection of another type with such an extra": {"conn_id": "of_another_vendor"},
    "the secret of another connection": {"conn_id": "another"},
    "no signature": {"headers": {"magic-hour-event-signature": ""}},
    "a signature that is no text": {"headers": {"magic-hour-event-signature": b"\x80\xff"}},
    "the signature of an empty secret": {"conn_id": "silent", "secret": ""},
    "no time": {"headers": {"magic-hour-event-timestamp": ""}},
    "another time": {"headers": {"magic-hour-event-timestamp": "1700000000"}},
    "a connection id that is no id": {"conn_id": "a b%00c"},
    "a connection id in another script": {"conn_id": "%D7%90"},
    "a connection id that is long": {"conn_id": "x" * 5000},
    "a connection id that is SQL": {"conn_id": "x'%20or%201=1%20--"},
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forgery_is_refused_alike_whatever_is_wrong(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, forgery: dict[str, Any]
) -> None:
    connect(monkeypatch, "silent", extra={})
    connect(monkeypatch, "another", extra={"webhook_secret": "whsec_other"})
    connect(monkeypatch, "of_another_vendor", conn_type="http")
    answer = vendor.send(**forgery)
    told = {name: value for name, value in answer.headers.items() if name != "date"}
    assert (answer.status_code, answer.content, told) == (
        401,
        b"",
        {"server": "uvicorn", "content-length": "0"},
    )
    assert answer.elapsed.total_seconds() >= webhooks.REFUSAL_SECONDS
    assert webhooks.receiver.refusals.total() == 1


def test_a_connection_id_with_a_slash_or_dots_is_no_route(vendor: Vendor) -> None:
    assert {vendor.send(conn_id=conn_id).status_code for conn_id in ("a/b", "../jobs", "")} <= {
        401,
        404,
        405,
        307,
    }
    assert events.arrivals == {}


def test_a_forgery_costs_no_query(vendor: Vendor) -> None:
    vendor.send()
    with queries() as made:
        for number in range(5):
            assert vendor.send(payload(f"cm{number}"), secret="whsec_2").status_code == 401
    assert made == []


def test_made_up_connections_cost_few_queries_and_stop_no_known_one(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "REFUSAL_SECONDS", 0.0)
    reads: list[str] = []
    read = webhooks._read_secrets

    def noting(conn_id: str) -> tuple[str, ...]:
        reads.append(conn_id)
        return read(conn_id)

    monkeypatch.setattr(webhooks, "_read_secrets", noting)
    assert vendor.send().status_code == 204
    monkeypatch.setattr(webhooks.receiver.secrets, "_tokens", webhooks.TokenBucket(rate=0, burst=3))
    statuses = [vendor.send(conn_id=f"made_up_{number}").status_code for number in range(6)]
    assert statuses == [401, 401, 401, 429, 429, 429]
    assert [vendor.send(conn_id="made_up_0").status_code for _ in range(2)] == [401, 401]
    assert vendor.send(payload("cm2")).status_code == 204
    assert len(reads) == 4


def test_the_same_event_again_is_taken_and_costs_no_query(vendor: Vendor) -> None:
    headers = signed(SECRET, payload())
    assert vendor.send(headers=headers).status_code == 204
    with queries() as made:
        assert vendor.send(headers=headers).status_code == 204
    assert made == []
    assert events.arrivals["magichour_default"].taken == 1


@pytest.mark.parametrize("ago", [-310, 310])
def test_an_old_event_is_refused_though_it_is_signed(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, ago: int
) -> None:
    now = time.time()
    with monkeypatch.context() as then:
        then.setattr("magichour_provider.emulator.webhooks.time.time", lambda: now - ago)
        headers = signed(SECRET, payload())
    assert vendor.send(headers=headers).status_code == 401
    assert webhooks.receiver.refusals == {"wrong time": 1}
    assert "1 were refused" in str(events.arrivals["magichour_default"])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_body_is_refused_before_it_is_read_to_its_end(vendor: Vendor, chunked: bool) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(4096):
            sent += 64 * 1024
            yield b"x" * 64 * 1024

    try:
        size = {} if chunked else {"Content-Length": str(4096 * 64 * 1024)}
        assert vendor.send(parts(), headers=size).status_code == 413
    except httpx.TransportError:
        pass  # the server closed the connection while the rest was sent
    assert webhooks.receiver.refusals == {"too large": 1}
    assert sent < 64 * 1024 * 1024


def test_a_slow_body_is_given_up(vendor: Vendor, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(webhooks, "BODY_SECONDS", 0.2)
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as drip:
        head = (
            "POST /magichour/webhooks/magichour_default HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )
        drip.sendall(head.encode())
        assert drip.recv(1000).startswith(b"HTTP/1.1 408")
    assert vendor.send().status_code == 204


def test_a_body_that_is_cut_off_harms_nobody(vendor: Vendor, address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    head = "POST /magichour/webhooks/magichour_default HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
    for _ in range(3):
        with socket.create_connection((host, int(port)), timeout=10) as cut:
            cut.sendall(head.encode())
    assert vendor.send().status_code == 204
    assert webhooks.receiver._bodies == 0


def test_many_slow_bodies_leave_no_memory_for_more(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks.receiver, "_bodies", webhooks.MAX_BODIES)
    assert vendor.send().status_code == 429


@pytest.mark.parametrize("body", [b" ", b"null", b"[" * 100_000, b"\xff", b'{"type": "video.completed"}'])
def test_what_is_signed_and_no_event_is_refused(vendor: Vendor, body: bytes) -> None:
    assert vendor.send(body).status_code == 400


def test_events_beyond_what_is_usual_are_sent_again_later(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks.receiver, "_tokens", webhooks.TokenBucket(rate=0, burst=2))
    assert [vendor.send(payload(f"cm{number}")).status_code for number in range(3)] == [204, 204, 429]


@pytest.mark.parametrize("problem", ["slow", "down"])
def test_a_database_in_trouble_is_answered_in_time_and_the_event_comes_again(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    assert vendor.send().status_code == 204  # the connection is known
    went_on = threading.Event()

    def trouble(*_: object) -> None:
        if problem == "down":
            raise OSError("the database is down")
        went_on.wait(20)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(webhooks, "ANSWER_SECONDS", 0.5)
        meanwhile.setattr(effects, "_read_task", trouble)
        answer = vendor.send(payload("cm2"))
    went_on.set()
    assert answer.status_code == 503
    assert answer.elapsed.total_seconds() < 10, "it does not wait for the database"
    assert vendor.send(payload("cm2")).status_code == 204


def test_nothing_that_is_secret_is_logged(vendor: Vendor, capfd: pytest.CaptureFixture[str]) -> None:
    signature = signed(SECRET, payload())["magic-hour-event-signature"]
    vendor.send()
    vendor.send(secret="whsec_2")
    vendor.send(b"null")
    out = "".join(capfd.readouterr())
    assert SECRET not in out
    assert signature not in out


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_only_post_is_open(address: str, method: str) -> None:
    assert httpx.request(method, f"{address}/magichour/webhooks/magichour_default").status_code in (
        401,
        403,
        404,
        405,
    )


# --- what an event does ---


def deferred(job_id: str = "cm1", short_id: str = "1a2b3c4d", **changed: Any) -> TaskKey:
    """A task that waits in the triggerer for this job."""
    key = seeding.task("dag", state=changed.pop("state", "deferred"))
    conn_id = changed.pop("conn_id", "magichour_default")
    earlier = changed.pop("earlier", [])
    seeding.journal(
        key,
        *earlier,
        seeding.job(job_id, short_id=short_id, conn_id=conn_id),
        intents=[seeding.intent("job", short_id=short_id, job_id=job_id, conn_id=conn_id)],
    )
    trigger = Trigger.from_object(
        JobTrigger(job_id=job_id, magichour_conn_id=conn_id, deadline=time.time() + 60)
    )
    trigger.classpath = changed.pop("classpath", trigger.classpath)
    with create_session() as session:
        session.add(trigger)
        session.flush()
        values = {
            "trigger_id": trigger.id,
            "next_method": TalkingPhotoOperator.execute_complete.__name__,
            "next_kwargs": {},
            **changed,
        }
        session.execute(update(TaskInstance).where(TaskInstance.dag_id == "dag").values(**values))
    return key


def waits_for_an_answer(state: str = "failed", outcome: str = "open", **changed: Any) -> TaskKey:
    """A task whose paid call had no answer."""
    key = seeding.task("dag", state=state)
    seeding.journal(key, intents=[seeding.intent(outcome, short_id="1a2b3c4d", **changed)])
    return key


def instance() -> TaskInstance:
    with create_session() as session:
        (found,) = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == "dag"))
        session.expunge(found)
        return found


def reported(key: TaskKey) -> Any:
    from airflow.state import TaskScope, get_state_backend

    scope = TaskScope(dag_id=key.dag_id, run_id=key.run_id, task_id=key.task_id, map_index=key.map_index)
    return json.loads(get_state_backend().get(scope, "magichour_reported") or "null")


def resumed_with() -> Any:
    from airflow.sdk.serde import deserialize

    kwargs: Any = deserialize(instance().next_kwargs)
    return kwargs["event"]


@pytest.mark.parametrize(("kind", "status"), [("video.completed", "complete"), ("video.errored", "error")])
def test_a_job_that_has_ended_wakes_its_task(vendor: Vendor, kind: str, status: str) -> None:
    deferred()
    with queries() as made:
        assert vendor.send(payload(kind=kind)).status_code == 204
    assert not [query for query in made if "JOIN dag_run" in query]  # its columns are most of a task instance
    assert instance().state == "scheduled"
    assert resumed_with() == {"job_id": "cm1", "status": status, "source": "webhook"}


def test_a_task_whose_job_ends_before_it_waits_is_woken_once_it_does(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "WAKE_AGAIN", [0.05] * 1000)
    deferred(state="running")
    assert vendor.send().status_code == 204
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="deferred"))
    until(lambda: instance().state == "scheduled")


def test_a_repeated_event_wakes_once(vendor: Vendor) -> None:
    deferred()
    vendor.send()
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="running"))
    assert vendor.send(payload() + b" ").status_code == 204
    assert instance().state == "running"


@pytest.mark.parametrize(
    "changed",
    [
        {"state": "running"},
        {"state": "success"},
        {"conn_id": "another"},
        {"next_method": "of_the_user"},
        {"classpath": "of.the.user.Trigger"},
    ],
    ids=str,
)
def test_a_task_that_does_not_wait_for_this_is_left_alone(vendor: Vendor, changed: dict[str, Any]) -> None:
    deferred(**changed)
    before = instance().state
    assert vendor.send().status_code == 204
    assert instance().state == before


def test_the_end_of_an_earlier_job_does_not_wake_the_task(vendor: Vendor) -> None:
    deferred("cm2", earlier=[seeding.job("cm1")])
    vendor.send(payload("cm1", "00000000", "video.errored"))
    assert instance().state == "deferred"


def test_a_job_that_starts_wakes_nobody(vendor: Vendor) -> None:
    deferred()
    vendor.send(payload(kind="video.started"))
    assert instance().state == "deferred"


def test_a_task_that_somebody_else_holds_is_tried_again_and_then_by_the_vendor(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred()
    locked, held = effects._locked, [True, True]

    def once_held(session: Session, task: TaskKey) -> Any:
        if held and held.pop():
            raise effects.Busy
        return locked(session, task)

    monkeypatch.setattr(effects, "_locked", once_held)
    assert vendor.send().status_code == 204
    assert instance().state == "scheduled"
    held += [True] * 9
    assert vendor.send(payload() + b" ").status_code == 503


@pytest.mark.parametrize("kind", ["video.started", "video.completed", "audio.errored", "image.completed"])
def test_a_job_whose_answer_was_lost_is_reported_to_its_task(vendor: Vendor, kind: str) -> None:
    key = waits_for_an_answer(state="running")
    assert vendor.send(payload(kind=kind)).status_code == 204
    (entry,) = reported(key)["1a2b3c4d"]
    assert entry.pop("at").endswith("Z")
    assert entry == {"job_id": "cm1", "conn_id": "magichour_default", "source": "webhook"}
    assert instance().state == "running"


def test_an_intent_that_was_written_a_moment_ago_is_found(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "REREAD", 0.2)
    vendor.send(payload("cm0", "00000000"))  # the journals were read just now
    key = waits_for_an_answer()
    vendor.send()
    assert reported(key) is not None


@pytest.mark.parametrize("short_id", ["00000000", "1a2b3c4"])
def test_a_job_of_nobody_is_taken_and_changes_nothing(vendor: Vendor, short_id: str) -> None:
    key = waits_for_an_answer()
    assert vendor.send(payload(short_id=short_id)).status_code == 204
    assert reported(key) is None


def test_a_report_through_another_connection_changes_nothing(
    vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "another")
    key = waits_for_an_answer()
    assert vendor.send(conn_id="another").status_code == 204
    assert reported(key) is None


def test_reports_are_kept_in_order_each_once_and_the_first_five(vendor: Vendor) -> None:
    key = waits_for_an_answer()
    for number in (1, 2, 1, 3, 4, 5, 6, 7):
        vendor.send(payload(f"cm{number}") + b" " * number)
    assert [entry["job_id"] for entry in reported(key)["1a2b3c4d"]] == [f"cm{n}" for n in range(1, 6)]


def test_what_a_person_has_written_there_is_kept(vendor: Vendor) -> None:
    key = waits_for_an_answer()
    seeding.store(
        key, "magichour_reported", {"1a2b3c4d": [{"pay_again": True}], "00000000": [{"job_id": "x"}]}
    )
    vendor.send()
    written = reported(key)
    assert written["00000000"] == [{"job_id": "x"}]
    assert written["1a2b3c4d"][0] == {"pay_again": True}
    assert written["1a2b3c4d"][1]["job_id"] == "cm1"


def test_a_task_that_has_failed_already_gets_a_row_in_the_audit_log_once(vendor: Vendor) -> None:
    waits_for_an_answer(state="failed")
    vendor.send()
    vendor.send(payload() + b" ")
    with create_session() as session:
        (row,) = session.scalars(select(Log).where(Log.event == "magichour_reported"))
        assert (row.dag_id, row.run_id, row.task_id) == ("dag", "run1", "video")
        assert json.loads(row.extra or "")["job_id"] == "cm1"


def test_a_task_that_asks_a_person_is_resumed_by_the_report(vendor: Vendor) -> None:
    key = waits_for_an_answer(state="awaiting_input")
    with create_session() as session:
        session.execute(update(TaskInstance).values(next_method="execute_answered", next_kwargs={}))
    vendor.send()
    assert reported(key) is not None
    assert instance().state == "scheduled"
    assert resumed_with() == {"reported": "1a2b3c4d"}


def test_two_api_servers_lose_no_report(vendor: Vendor, monkeypatch: pytest.MonkeyPatch) -> None:
    key = waits_for_an_answer()
    bodies = [payload(f"cm{number}") for number in range(5)]

    async def send_all() -> list[int]:
        async with httpx.AsyncClient() as client:
            sent = [
                client.post(
                    f"{vendor._client.base_url}/magichour/webhooks/magichour_default",
                    content=body,
                    headers=signed(SECRET, body),
                )
                for body in bodies
            ]
            return [answer.status_code for answer in await asyncio.gather(*sent)]

    assert set(asyncio.run(send_all())) <= {204, 503}
    for body in bodies:  # the vendor sends what was not taken again
        vendor.send(body + b" ")
    assert len(reported(key)["1a2b3c4d"]) == 5


# --- from the emulator ---


def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_the_vendors_own_events_wake_a_task(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(render="stub", progression="manual") as emulator:
        emulator.webhook(f"{address}/magichour/webhooks/magichour_default", SECRET)
        job_id = seeding.make_video(emulator)
        deferred(job_id)
        emulator.move(job_id, "rendering")
        emulator.move(job_id, "complete")
        until(lambda: bool(emulator.deliveries()) and all(one["delivered"] for one in emulator.deliveries()))
        assert [one["type"] for one in emulator.deliveries()] == ["video.started", "video.completed"]
        assert instance().state == "scheduled"


def test_events_that_come_through_a_queue_are_taken(address: str) -> None:
    page = Path(__file__).parents[2] / "docs/webhooks.md"
    if not page.exists():
        pytest.skip("docs/ is not here")
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    block = block.replace("http://airflow-api-server:8080", address)
    names: dict[str, Any] = {}
    exec(block, names)
    body = payload()
    message = {"Body": json.dumps({"body": body.decode(), "headers": signed(SECRET, body)})}
    event = SimpleNamespace(extra={"payload": {"message_batch": [message]}})
    hand_over = names["dag"].get_task("hand_over").python_callable
    hand_over(triggering_asset_events={names["events"]: [event]})
    assert events.arrivals["magichour_default"].taken == 1
