"""A trigger that expects a webhook's event: does the event come before the polls?"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from magichour_provider.hooks import MagicHourHook
from magichour_provider.triggers import JobTrigger

if TYPE_CHECKING:
    from magichour_provider.emulator import Emulator


@pytest.fixture
def unhurried(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection with webhooks, and no interval between polls of its own."""
    connection = {**emulator.connection, "extra": {"webhook_secret": "whsec_1"}}
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(connection))
    monkeypatch.setattr("magichour_provider.api.client.sharing._learned", {})


def submit() -> str:
    url = "https://example.org/a"
    hook = MagicHourHook()
    return hook.submit(image_file_path=f"{url}.jpg", audio_file_path=f"{url}.mp3", end_seconds=1).job_id


def trigger(job_id: str, **changed: float | None) -> JobTrigger:
    now = time.time()
    known = {"submitted_at": now, "deadline": now + 60, **changed}
    return JobTrigger(
        job_id=job_id,
        magichour_conn_id="magichour_default",
        expects_event=True,
        **known,  # type: ignore[arg-type]
    )


@pytest.mark.usefixtures("unhurried")
async def test_a_wait_that_an_event_ends_has_not_polled_and_counts_for_the_events(emulator: Emulator) -> None:
    waiting = trigger(await asyncio.to_thread(submit))
    async with MagicHourHook().async_client() as client:
        for _ in range(10):
            client.renders.record_finder(by_poll=True)
        run = asyncio.ensure_future(anext(waiting.run()))
        while waiting._client is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
        for _ in range(8):
            await waiting.on_kill()
        run.cancel()
        assert client.renders.events_arrive
    assert emulator.requests("get_video") == []


@pytest.mark.usefixtures("unhurried")
async def test_ends_that_polls_find_bring_the_normal_schedule_back_with_one_warning(
    emulator: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    job_id = await asyncio.to_thread(submit)
    async with MagicHourHook().async_client() as client:
        for _ in range(4):
            assert await anext(trigger(job_id, submitted_at=None).run())
        assert not client.renders.events_arrive
    assert capfd.readouterr().out.count("The events do not seem to arrive") == 1
