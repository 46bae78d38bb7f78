"""Free calls through both clients: which are repeated, how often, and that nothing is charged."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from both import BLOCKING, KEY, MODES, Row, accepts, heard, row, settings_for, stand_in, through

from magichour_provider import exceptions as errors
from magichour_provider.api.client import Settings
from magichour_provider.api.client.asynchronous import AsyncMagicHourClient
from magichour_provider.api.inputs import TalkingPhotoInputs
from magichour_provider.api.models import Job
from magichour_provider.api.watching import Listener
from magichour_provider.api.wire import paid_call
from magichour_provider.emulator import Emulator

SHORT = 0.5


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub", progression="polls:2") as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def _no_faults_left(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.clear_faults()


@pytest.fixture
def job_id(emulator: Emulator) -> str:
    """A job that was just submitted."""
    inputs = TalkingPhotoInputs(image_file_path="a.png", audio_file_path="a.wav", end_seconds=1)
    assets = {
        "image_file_path": emulator.put_asset(b"photo", "png"),
        "audio_file_path": emulator.put_asset(b"voice", "wav"),
    }
    submitted = through(
        "sync",
        settings_for(emulator),
        lambda api: api.submit(paid_call(inputs, assets, "n")),
    )
    return str(submitted.job_id)


CALLS: dict[str, Callable[[Any, str], Any]] = {
    "get_video": lambda client, job_id: client.get(job_id),
    "account": lambda client, _: client.account(),
    "delete_video": lambda client, job_id: client.delete(job_id),
}

PASSING: list[dict[str, Any]] = [
    *({"status": status} for status in (408, 409, 429, 500, 502, 503, 504, 520)),
    {"html": True},
    {"status": 503, "body": ""},
    {"reset": "before"},
    {"reset": "after"},
]
SPOILED: list[dict[str, Any]] = [
    {"html": True, "status": 200},
    {"body": ""},
    {"body": "{}"},
    {"truncate": 9},
    {"cut": 9},
]
POLLED = ("get_video", "account")  # what both clients can call
BOTH_CALLS = [
    *((mode, call) for mode in MODES for call in POLLED),
    *((mode, "delete_video") for mode in BLOCKING),
]


@pytest.mark.parametrize(
    ("mode", "call", "fault"),
    [
        (mode, call, fault)
        for mode, call in BOTH_CALLS
        for fault in (PASSING + SPOILED if call in POLLED else PASSING)
    ],
    ids=str,
)
def test_a_call_that_fails_once_is_made_again(
    emulator: Emulator, job_id: str, pauses: list[float], call: str, fault: dict[str, Any], mode: str
) -> None:
    emulator.fault(call, **fault)
    ending = row(
        mode,
        settings_for(emulator),
        lambda client: CALLS[call](client, job_id),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests(call)),
    )
    assert ending == Row("ok", requests=2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 500}, Row("Unavailable", 500, True, "no", requests=4)),
        ({"status": 503, "html": True}, Row("Unavailable", 503, True, "no", requests=4)),
        ({"status": 429}, Row("RateLimited", 429, True, "no", requests=4)),
        ({"status": 429, "headers": {"Retry-After": "3600"}}, Row("RateLimited", 429, True, "no")),
        ({"status": 503, "headers": {"Retry-After": "3600"}}, Row("Unavailable", 503, True, "no")),
        ({"truncate": 9}, Row("Unavailable", 200, True, "no", requests=4)),
        ({"status": 400}, Row("InvalidRequest", 400, False, "no")),
        ({"status": 401}, Row("Unauthorized", 401, False, "no")),
        ({"status": 403, "html": True}, Row("Forbidden", 403, False, "no")),
        ({"status": 404}, Row("NotFound", 404, False, "no")),
    ],
    ids=str,
)
def test_a_call_that_always_fails_says_why_after_a_few_times(
    emulator: Emulator, job_id: str, pauses: list[float], fault: dict[str, Any], expected: Row, mode: str
) -> None:
    emulator.fault("get_video", times=None, **fault)
    ending = row(
        mode,
        settings_for(emulator),
        lambda client: client.get(job_id),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests("get_video")),
    )
    assert ending == expected


@pytest.mark.parametrize(("mode", "requests"), [("sync", 4), ("async", 8)])
def test_a_call_whose_connection_is_always_reset_fails_after_a_few_times(
    emulator: Emulator, job_id: str, pauses: list[float], mode: str, requests: int
) -> None:
    """aiohttp sends each of them twice."""
    emulator.fault("get_video", times=None, reset="before")
    ending = row(
        mode,
        settings_for(emulator),
        lambda client: client.get(job_id),
        requests=lambda: len(emulator.requests("get_video")),
    )
    assert ending == Row("Unavailable", None, True, "no", requests=requests)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", [{"hang": 1.5}, {"slow": 30}], ids=str)
def test_a_call_that_takes_too_long_is_made_again(
    emulator: Emulator, job_id: str, pauses: list[float], fault: dict[str, Any], mode: str
) -> None:
    emulator.fault("get_video", **fault)
    asked = through(mode, settings_for(emulator, timeout=SHORT), lambda client: client.get(job_id))
    assert asked.job_id == job_id


@pytest.mark.parametrize("mode", MODES)
def test_a_kept_connection_that_the_server_has_closed_is_no_problem(mode: str, pauses: list[float]) -> None:
    def once(connection: Any) -> None:
        accepts(connection)
        heard(connection)
        connection.close()

    with stand_in(once) as server:

        async def in_order(client: Any) -> list[Any]:
            return [await client.account(), await client.account()]

        def one_by_one(client: Any) -> list[Any]:
            return [client.account(), client.account()]

        use = one_by_one if mode == "sync" else in_order
        accounts = through(mode, settings_for(server), use)
    assert [account.account_id for account in accounts] == ["job-1", "job-1"]


@pytest.mark.parametrize(("mode", "call"), BOTH_CALLS)
def test_a_wrong_key_is_named(emulator: Emulator, call: str, mode: str) -> None:
    settings = Settings(api_key="wrong", base_url=emulator.url, verify=False)
    with pytest.raises(errors.Unauthorized, match="check the API key"):
        through(mode, settings, lambda client: CALLS[call](client, "job-1"))


@pytest.mark.parametrize("mode", MODES)
def test_the_account_tells_its_credits(emulator: Emulator, mode: str) -> None:
    account = through(mode, settings_for(emulator), lambda client: client.account())
    assert (account.tier, account.credits) == ("business", emulator.credits)


@pytest.mark.parametrize("mode", MODES)
def test_a_deleted_job_is_known_as_deleted(emulator: Emulator, job_id: str, mode: str) -> None:
    through("sync", settings_for(emulator), lambda client: client.delete(job_id))
    job = through(mode, settings_for(emulator), lambda client: client.get(job_id))
    with pytest.raises(errors.JobDeleted):
        job.raise_unless_complete()


# --- waiting ---


def wait(emulator: Emulator, mode: str, job_id: str, *, within: float = 60, **settings: Any) -> Any:
    return through(
        mode,
        settings_for(emulator, poll_interval=0.01, **settings),
        lambda client: client.wait(job_id, deadline=time.time() + within),
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "fault",
    [*PASSING, *SPOILED, {"status": 401}, {"status": 403}, {"status": 404}, {"status": 422}],
    ids=str,
)
def test_waiting_outlives_looks_that_fail(
    emulator: Emulator, job_id: str, fault: dict[str, Any], mode: str
) -> None:
    failing = emulator.fault("get_video", skip=1, times=2, **fault)
    assert wait(emulator, mode, job_id).status == "complete"
    assert failing.hits == 2


@pytest.mark.parametrize("mode", MODES)
def test_waiting_outlives_a_look_that_hangs(emulator: Emulator, job_id: str, mode: str) -> None:
    emulator.fault("get_video", hang=1.5)
    assert wait(emulator, mode, job_id, timeout=SHORT).status == "complete"


@pytest.mark.parametrize("mode", MODES)
def test_waiting_reads_a_status_of_next_year_as_going_on(emulator: Emulator, job_id: str, mode: str) -> None:
    emulator.fault("get_video", body={"id": job_id, "status": "upscaling"}, times=2)
    assert wait(emulator, mode, job_id).status == "complete"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda emulator, job: emulator.fail(job, "no_source_face"), "error"),
        (lambda emulator, job: emulator.cancel(job), "canceled"),
    ],
    ids=["error", "canceled"],
)
def test_waiting_ends_with_a_job_that_ends_badly(
    emulator: Emulator, job_id: str, end: Callable[[Emulator, str], None], status: str, mode: str
) -> None:
    end(emulator, job_id)
    assert wait(emulator, mode, job_id).status == status


@pytest.mark.parametrize("mode", MODES)
def test_waiting_ends_at_its_deadline(emulator: Emulator, job_id: str, mode: str) -> None:
    with pytest.raises(errors.WaitTimeout, match=job_id) as timeout:
        wait(emulator, mode, job_id, within=-1)
    assert (timeout.value.job_id, timeout.value.charged) == (job_id, "yes")


async def test_who_waits_keeps_nothing_of_what_it_has_seen(emulator: Emulator, job_id: str) -> None:
    """A triggerer may hold ten thousand waits, all between two looks."""
    looked = asyncio.Event()

    class Looked(Listener):
        def on_poll(self, seen: object) -> None:
            looked.set()

    settings = settings_for(emulator)
    async with AsyncMagicHourClient(settings, settings.ssl_context()) as client:
        waiting = client.wait(job_id, deadline=time.time() + 60, poll_interval=60, listener=Looked())
        task = asyncio.create_task(waiting)
        await looked.wait()
        gc.collect()
        jobs = (kept for kept in gc.get_objects() if type(kept) is Job)  # isinstance() wakes lazy ones
        assert [job for job in jobs if job.job_id == job_id] == []
        task.cancel()
        await asyncio.wait([task])


# --- where the key goes ---


@pytest.mark.parametrize("mode", MODES)
def test_a_redirect_is_not_followed_with_the_key(emulator: Emulator, mode: str, pauses: list[float]) -> None:
    with stand_in(accepts) as elsewhere:
        emulator.fault("account", status=307, headers={"Location": elsewhere.url}, times=None)
        with pytest.raises(errors.Unavailable):
            through(mode, settings_for(emulator), lambda client: client.account())
        assert elsewhere.connections == 0


@pytest.mark.parametrize("mode", MODES)
def test_every_call_says_who_calls(emulator: Emulator, mode: str) -> None:
    through(mode, settings_for(emulator), lambda client: client.account())
    headers = emulator.requests("account")[-1]["headers"]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["user-agent"].startswith("airflow-provider-magichour/")
