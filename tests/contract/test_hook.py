"""The hook: every way to write a connection down, everything it can do, and one async client for all."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Connection
from blockbuster import blockbuster_ctx

from magichour_provider import exceptions as errors
from magichour_provider import get_provider_info
from magichour_provider.api.client import Settings
from magichour_provider.api.client.asynchronous import AsyncMagicHourClient
from magichour_provider.connection import settings_from_connection
from magichour_provider.emulator import Emulator
from magichour_provider.hooks import MagicHourHook

KEY = "mhk_test_emulator"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture
def hook(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> MagicHourHook:
    monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", emulator.connection_json)
    return MagicHourHook()


def connected(monkeypatch: pytest.MonkeyPatch, written: str) -> MagicHourHook:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", written)
    return MagicHourHook("other")


def connection(**given: Any) -> Connection:
    extra = given.pop("extra", None)
    return Connection(
        conn_id="other",
        **{"conn_type": "magichour", "password": KEY, **given},
        extra=extra if isinstance(extra, str | None) else json.dumps(extra),
    )


# --- connections ---


@pytest.mark.parametrize(
    "written",
    [
        '{{"conn_type": "magichour", "password": "{key}", "host": "http://{at}"}}',
        '{{"conn_type": "magichour", "password": " {key}\\n", "host": "http://{at}/"}}',
        '{{"conn_type": "magichour", "password": "{key}", "host": "{host}", "schema": "http", '
        '"port": {port}}}',
        '{{"conn_type": "magichour", "password": "{key}", "host": "http://{host}", "port": {port}}}',
        "magichour://:{key}@{at}/http",
        "magichour://:{key}@http%3A%2F%2F{host}%3A{port}",
        "magichour://http://:{key}@{at}",
        "magichour://:{key}@{at}/http?timeout=30&verify=false",
    ],
)
def test_a_connection_works_however_it_is_written(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    at = emulator.url.removeprefix("http://")
    host, _, port = at.partition(":")
    hook = connected(monkeypatch, written.format(key=KEY, at=at, host=host, port=port))
    assert hook.settings.base_url == emulator.url
    assert hook.account().credits == emulator.credits


def test_without_a_host_it_is_magic_hours_own() -> None:
    assert settings_from_connection(connection()) == Settings(
        api_key=KEY, base_url="https://api.magichour.ai"
    )


@pytest.mark.parametrize(
    ("field", "written", "read"),
    [
        ("timeout", 5, 5),
        ("timeout", "5.5", 5.5),
        ("timeout", "", 60),
        ("timeout", None, 60),
        ("poll_interval", 0.1, 0.1),
        ("poll_interval", None, None),
        ("proxy", "http://user:word@proxy.example:3128", "http://user:word@proxy.example:3128"),
        ("proxy", "", None),
        ("proxy", None, None),
        ("verify", True, True),
        ("verify", False, False),
        ("verify", "False", False),
        ("verify", "true", True),
        ("verify", "", True),
        ("verify", None, True),
        ("verify", "/etc/ssl/ours.pem", "/etc/ssl/ours.pem"),
    ],
)
def test_each_extra_is_read(field: str, written: object, read: object) -> None:
    assert field in get_provider_info()["connection-types"][0]["conn-fields"]
    assert getattr(settings_from_connection(connection(extra={field: written})), field) == read


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"password": None}, "password=None: contains no API key"),
        ({"password": "  "}, "password='  ': contains no API key"),
        ({"password": "two words"}, r"password='\*\*\*': is not an API key"),
        ({"password": "mhk_\u2026"}, r"password='\*\*\*': is not an API key"),
        ({"host": "api.magichour.ai"}, "host='api.magichour.ai': .* write https://api.magichour.ai"),
        ({"host": "localhost:8787"}, "host='localhost:8787': .* write https://localhost:8787"),
        ({"host": "ftp://x.example"}, "host='ftp://x.example': .* write https://x.example"),
        ({"host": "u:secret@x.example"}, "host='x.example': is not an http.* write https://x.example"),
        ({"host": "ftp://u:secret@x.example"}, "host='ftp://x.example': is not an http"),
        ({"host": "https://u:se/secret@x.example"}, "host='https://x.example': is not an http"),
        ({"host": "x.example?key=secret"}, "host='x.example': is not an http"),
        ({"host": "https://x.example#secret"}, "host='https://x.example': contains a user"),
        ({"host": "mhk_live_secret"}, r"host='\*\*\*': is not an http"),
        ({"conn_type": "aws"}, "conn_type='aws': is not a connection of magichour"),
        ({"conn_type": "openai"}, "conn_type='openai': is not a connection of magichour"),
        ({"conn_type": "http"}, "conn_type='http': is not a connection of magichour"),
        ({"extra": {"timeout": 1e12}}, r"timeout=1000000000000\.0: must be"),
        ({"host": "https://"}, "host='https:': is not an http"),
        ({"host": "http://x:port"}, "host='http://x:port': is not an http"),
        ({"host": "http://[x"}, r"host='http://\[x': is not an http"),
        ({"extra": "{no json"}, "extra='…': is not a JSON object"),
        ({"extra": "[1]"}, "extra='…': is not a JSON object"),
        ({"extra": {"timeout": "soon"}}, "timeout='soon': must be a number of seconds above 0"),
        ({"extra": {"timeout": 0}}, "timeout=0: must be"),
        ({"extra": {"timeout": -1}}, "timeout=-1: must be"),
        ({"extra": {"timeout": [5]}}, r"timeout=\[5\]: must be"),
        ({"extra": {"poll_interval": "nan"}}, "poll_interval='nan': must be"),
        ({"extra": {"poll_interval": "inf"}}, "poll_interval='inf': must be"),
        ({"extra": {"proxy": "proxy.example:3128"}}, "proxy='…': is not the URL of a proxy"),
        ({"extra": {"proxy": "ftp://u:secret@proxy.example"}}, "proxy='…': is not the URL of a proxy"),
        ({"extra": {"proxy": "http://proxy.example:port"}}, "proxy='…': is not the URL of a proxy"),
        ({"extra": {"proxy": 3128}}, "proxy='…': is not the URL of a proxy"),
        ({"extra": {"verify": 7}}, "verify=7: must be true, false, or the path"),
    ],
    ids=str,
)
def test_a_bad_connection_is_refused_naming_field_and_remedy(given: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.InvalidConnection, match=f"^connection 'other', {words}") as refused:
        settings_from_connection(connection(**given))
    assert "secret" not in str(refused.value)
    assert "two words" not in str(refused.value)


def test_no_secret_of_a_connection_shows_when_its_settings_are_printed() -> None:
    settings = settings_from_connection(connection(extra={"proxy": "http://user:word@proxy.example"}))
    assert not any(secret in f"{settings!r} {settings}" for secret in (KEY, "word"))


def test_a_connection_that_does_not_exist_says_how_to_create_it() -> None:
    with pytest.raises(errors.InvalidConnection, match=r"magichour_conn_id='nobody'.*connections add"):
        MagicHourHook("nobody").account()


# --- test_connection ---


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": ""}, "InvalidConnection: .*contains no API key"),
        (
            {"extra": {"verify": "/no/bundle.pem"}},
            "InvalidConnection: verify='/no/bundle.pem': .*check the path",
        ),
    ],
    ids=str,
)
def test_a_connection_that_does_not_work_says_why(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    works, why = connected(monkeypatch, json.dumps(emulator.connection | change)).test_connection()
    assert not works
    assert re.match(words, why)


# --- what it can do ---


@pytest.fixture
def photo_and_voice(tmp_path: Path) -> tuple[str, str]:
    for name in ("me.png", "hello.wav"):
        (tmp_path / name).write_bytes(b"content")
    return f"{tmp_path}/me.png", f"{tmp_path}/hello.wav"


@pytest.mark.parametrize("as_written", [lambda folder: f"{folder}/", Path], ids=["text", "path object"])
def test_from_files_to_video_by_hand(
    hook: MagicHourHook,
    emulator: Emulator,
    photo_and_voice: tuple[str, str],
    tmp_path: Path,
    as_written: Callable[[str], Any],
) -> None:
    charges = emulator.charges()
    image, audio = hook.upload(*photo_and_voice)
    job = hook.submit(image_file_path=image, audio_file_path=audio, end_seconds=1, name="by hand")
    assert hook.wait(job.job_id, timeout=60).status == "complete"
    place = hook.download(job.job_id, as_written(f"{tmp_path}/videos"))
    assert place == f"{tmp_path}/videos/{job.job_id}.mp4"
    assert Path(place).read_bytes()[4:8] == b"ftyp"
    hook.delete(job.job_id)
    assert hook.get(job.job_id).enabled is False
    assert emulator.charges() == charges + 1


def test_from_a_text_to_a_video_by_hand(hook: MagicHourHook, emulator: Emulator, tmp_path: Path) -> None:
    charges = emulator.charges()
    voice = hook.submit_voice(prompt="Good evening.", voice_name="Albert Einstein")
    assert hook.wait(voice.job_id, job_type="audio", timeout=60).status == "complete"
    place = hook.download(voice.job_id, f"{tmp_path}/voices/", job_type="audio")
    assert place == f"{tmp_path}/voices/{voice.job_id}.wav"
    assert Path(place).read_bytes()[:4] == b"RIFF"

    library = "https://magichour.ai/my-library"
    hook.submit(image_file_path=f"{library}?imageId=any", audio_file_path=f"{library}?audioId={voice.job_id}")
    assert emulator.jobs()[-1]["request"]["end_seconds"] == 0.5  # of the stub's voice
    hook.delete(voice.job_id, job_type="audio")
    assert hook.get(voice.job_id, job_type="audio").enabled is False
    assert emulator.charges() == charges + 2


def test_any_tool_by_hand(hook: MagicHourHook, emulator: Emulator, tmp_path: Path) -> None:
    charges = emulator.charges()
    body = {"name": "images by hand", "image_count": "2", "style": {"prompt": "a lighthouse"}}
    image = hook.submit_tool("ai-image-generator", body)
    assert hook.wait(image.job_id, job_type="image", timeout=60).status == "complete"
    assert emulator.jobs("images by hand")[0]["request"] == body | {"image_count": 2}
    first = hook.download(image.job_id, f"{tmp_path}/images/", job_type="image")
    assert first == f"{tmp_path}/images/{image.job_id}-1.png"
    assert {path.name for path in (tmp_path / "images").iterdir()} == {
        f"{image.job_id}-{number}.png" for number in (1, 2)
    }
    with pytest.raises(errors.InvalidInput, match="is a file; upload"):
        hook.submit_tool("photo-colorizer", {"assets": {"image_file_path": "/data/me.png"}})
    assert emulator.charges() == charges + 1


def test_a_file_is_not_submitted_as_if_magic_hour_could_read_it(
    hook: MagicHourHook, emulator: Emulator
) -> None:
    before = len(emulator.requests())
    with pytest.raises(
        errors.InvalidInput, match=r"image_file_path='/me.png': is a file; upload\(\) it first"
    ):
        hook.submit(image_file_path="/me.png", audio_file_path="api-assets/a.wav", end_seconds=1)
    assert len(emulator.requests()) == before


def test_uploading_leaves_alone_what_magic_hour_reads_by_itself(
    hook: MagicHourHook, emulator: Emulator, photo_and_voice: tuple[str, str]
) -> None:
    before = len(emulator.requests("put"))
    given = ["https://x.example/me.png", photo_and_voice[0], "api-assets/a.wav", photo_and_voice[0]]
    url, first, asset, again = hook.upload(*given)
    assert (url, asset) == (given[0], given[2])
    assert first == again
    assert len(emulator.requests("put")) == before + 1


def test_a_file_that_magic_hour_does_not_take_is_named(hook: MagicHourHook, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match=r"me\.txt'.*\.png"):
        hook.upload(f"{tmp_path}/me.txt")


def test_a_target_that_exists_is_known_before_the_download(
    hook: MagicHourHook, emulator: Emulator, tmp_path: Path
) -> None:
    (tmp_path / "me.mp4").write_bytes(b"precious")
    before = len(emulator.requests())
    with pytest.raises(errors.TargetExists):
        hook.download("job-1", f"{tmp_path}/me.mp4")
    assert len(emulator.requests()) == before


# --- one async client for all on an event loop ---


async def works(client: AsyncMagicHourClient) -> bool:
    return (await client.account()).credits is not None


async def test_users_on_one_loop_share_one_client_which_is_closed_after_the_last(hook: MagicHourHook) -> None:
    async with hook.async_client() as first:
        async with MagicHourHook().async_client() as second:
            assert second is first
        assert await works(first)
    with pytest.raises(RuntimeError, match="closed"):
        await first.account()
    async with hook.async_client() as later:
        assert later is not first
        assert await works(later)


async def test_a_key_that_was_rotated_is_noticed_by_whoever_comes_later(
    hook: MagicHourHook, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magichour_provider.api.client.sharing.KEEP_SETTINGS", 0.0)
    rotated = emulator.connection | {"password": "mhk_not_yet_known"}
    async with hook.async_client() as first:
        monkeypatch.setenv("AIRFLOW_CONN_MAGICHOUR_DEFAULT", json.dumps(rotated))
        async with MagicHourHook().async_client() as second:
            with pytest.raises(errors.Unauthorized):
                await second.account()
        assert await works(first)


async def test_what_is_learned_of_the_connection_outlives_the_client(
    hook: MagicHourHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("magichour_provider.api.client.sharing.KEEP_SETTINGS", 0.0)
    async with hook.async_client() as first, MagicHourHook().async_client() as second:
        assert second is not first
        assert second.limiter is first.limiter
    async with hook.async_client() as later:
        assert later.limiter is first.limiter


async def test_many_who_come_at_once_open_one_client(hook: MagicHourHook) -> None:
    everybody_is_in = asyncio.Barrier(5)

    async def use() -> AsyncMagicHourClient:
        async with MagicHourHook().async_client() as client:
            await everybody_is_in.wait()
            assert await works(client)
            return client

    assert len(set(await asyncio.gather(*(use() for _ in range(5))))) == 1


async def test_another_connection_has_another_client(
    hook: MagicHourHook, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = connected(monkeypatch, emulator.connection_json)
    async with hook.async_client() as one, other.async_client() as two:
        assert one is not two


async def test_whoever_began_to_open_it_may_be_canceled(hook: MagicHourHook) -> None:
    async def use() -> bool:
        async with MagicHourHook().async_client() as client:
            return await works(client)

    first, second = asyncio.ensure_future(use()), asyncio.ensure_future(use())
    await asyncio.sleep(0)  # both have asked, neither has been given it
    first.cancel()
    assert await second
    assert first.cancelled()


async def test_a_user_who_is_canceled_leaves_the_client_to_the_others(hook: MagicHourHook) -> None:
    has_it = asyncio.Event()

    async def hold() -> None:
        async with MagicHourHook().async_client():
            has_it.set()
            await asyncio.Event().wait()

    holding = asyncio.ensure_future(hold())
    await has_it.wait()
    async with hook.async_client() as client:
        holding.cancel()
        await asyncio.wait([holding])
        assert await works(client)


async def test_when_nobody_waits_for_it_any_more_the_next_one_opens_it_anew(hook: MagicHourHook) -> None:
    async def use() -> None:
        async with MagicHourHook().async_client():
            raise AssertionError("canceled before")

    asking = asyncio.ensure_future(use())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    async with hook.async_client() as client:
        assert await works(client)


async def test_a_connection_that_is_mended_can_be_opened(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = connected(monkeypatch, json.dumps(emulator.connection | {"password": ""}))
    for _ in range(2):
        with pytest.raises(errors.InvalidConnection, match="contains no API key"):
            async with hook.async_client():
                raise AssertionError("opened")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", emulator.connection_json)
    async with hook.async_client() as client:
        assert await works(client)


async def test_a_connection_that_does_not_exist_is_named_there_too() -> None:
    with pytest.raises(errors.InvalidConnection, match="magichour_conn_id='nobody'"):
        async with MagicHourHook("nobody").async_client():
            raise AssertionError("opened")


def test_each_event_loop_has_its_own_client(hook: MagicHourHook) -> None:
    async def use() -> bool:
        async with hook.async_client() as client:
            return await works(client)

    assert asyncio.run(use())
    assert asyncio.run(use())


def test_nothing_blocks_the_event_loop(hook: MagicHourHook, photo_and_voice: tuple[str, str]) -> None:
    image, audio = hook.upload(*photo_and_voice)
    job = hook.submit(image_file_path=image, audio_file_path=audio, end_seconds=1)

    async def use() -> str:
        async with hook.async_client() as client:
            await client.account()
            return (await client.wait(job.job_id, deadline=time.time() + 60)).status

    with blockbuster_ctx("magichour_provider"):
        assert asyncio.run(use()) == "complete"
