"""Photos and voices go up, videos come down, whole or not at all, and the storage host never sees the key."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from both import BLOCKING, KEY, Row, row, settings_for, through

from magichour_provider import exceptions as errors
from magichour_provider.api.inputs import TalkingPhotoInputs
from magichour_provider.api.wire import create_talking_photo
from magichour_provider.emulator import Emulator
from magichour_provider.files.storage import Source, Target

INPUTS = TalkingPhotoInputs(image_file_path="me.png", audio_file_path="hello.wav", end_seconds=1)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.fixture(autouse=True)
def _no_faults_left(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.clear_faults()


def counted(emulator: Emulator, *calls: str) -> list[int]:
    return [len(emulator.requests(call)) for call in calls]


# --- up ---


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    photo, voice = tmp_path / "me.png", tmp_path / "hello.wav"
    photo.write_bytes(b"photo" * 500_000)  # more than a chunk
    voice.write_bytes(b"voice")
    return [
        Source.find("image_file_path", "image", str(photo)),
        Source.find("audio_file_path", "audio", str(voice)),
    ]


def uploaded(emulator: Emulator, mode: str, sources: list[Source], **settings: Any) -> list[str]:
    paths: list[str] = through(mode, settings_for(emulator, **settings), lambda api: api.upload(sources))
    return paths


@pytest.mark.parametrize("mode", BLOCKING)
def test_two_files_need_one_call_for_their_urls_and_can_then_be_used(
    emulator: Emulator, sources: list[Source], mode: str
) -> None:
    before = counted(emulator, "upload_urls", "put")
    image, audio = uploaded(emulator, mode, sources)
    assert counted(emulator, "upload_urls", "put") == [before[0] + 1, before[1] + 2]
    assert {put["bytes"] for put in emulator.requests("put")[-2:]} == {source.size for source in sources}
    assert (image[:11], image[-4:], audio[-4:]) == ("api-assets/", ".png", ".wav")
    through(
        mode,
        settings_for(emulator),
        lambda api: api.submit(create_talking_photo(INPUTS, image=image, audio=audio, name="n")),
    )


class Stopped(BaseException):
    """As Airflow stops a task, from a signal handler: at its ``execution_timeout``, or at a kill."""


def test_who_stops_a_task_need_not_wait_for_its_upload(
    emulator: Emulator, sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    waited_in_vain: list[bool] = []

    def stop(*_: object) -> None:
        raise Stopped

    def drip(_: Source) -> Iterator[bytes]:
        signal.setitimer(signal.ITIMER_REAL, 0.3)  # as Airflow does it
        waited_in_vain.append(not stopped.wait(20))
        yield b""

    before = signal.signal(signal.SIGALRM, stop)
    monkeypatch.setattr(Source, "chunks", drip)
    try:
        with pytest.raises(Stopped):
            uploaded(emulator, "sync", sources[:1])
        assert waited_in_vain == []
    finally:
        stopped.set()
        signal.signal(signal.SIGALRM, before)


UPLOAD_FAULTS: list[dict[str, Any]] = [
    *({"status": status} for status in (400, 403, 404, 500, 503)),
    {"status": 502, "html": True},
    {"reset": "before"},
    {"reset": "after"},
]


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize("fault", UPLOAD_FAULTS, ids=str)
def test_a_file_that_did_not_get_through_is_sent_again_and_it_alone(
    emulator: Emulator, sources: list[Source], pauses: list[float], fault: dict[str, Any], mode: str
) -> None:
    before = counted(emulator, "upload_urls", "put")
    emulator.fault("put", skip=1, **fault)
    paths = uploaded(emulator, mode, sources)
    assert [path[-4:] for path in paths] == [".png", ".wav"]
    assert counted(emulator, "upload_urls", "put") == [before[0] + 2, before[1] + 3]
    asked = [call["json"]["items"] for call in emulator.requests("upload_urls")[-2:]]
    assert [item["extension"] for item in asked[0]] == ["png", "wav"]
    assert len(asked[1]) == 1
    through(
        mode,
        settings_for(emulator),
        lambda api: api.submit(create_talking_photo(INPUTS, image=paths[0], audio=paths[1], name="n")),
    )


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(
    ("call", "fault", "expected"),
    [
        ("put", {"status": 403}, Row("UploadFailed", 403, True, "no", requests=8)),
        ("put", {"status": 503}, Row("UploadFailed", 503, True, "no", requests=8)),
        ("put", {"reset": "before"}, Row("UploadFailed", None, True, "no", requests=8)),
        ("upload_urls", {"status": 401}, Row("Unauthorized", 401, False, "no")),
        ("upload_urls", {"status": 500}, Row("Unavailable", 500, True, "no", requests=4)),
        ("upload_urls", {"body": {"items": []}}, Row("Unavailable", 200, True, "no", requests=4)),
        ("upload_urls", {"html": True, "status": 200}, Row("Unavailable", 200, True, "no", requests=4)),
    ],
    ids=str,
)
def test_an_upload_that_always_fails_has_charged_nothing(
    emulator: Emulator,
    sources: list[Source],
    pauses: list[float],
    call: str,
    fault: dict[str, Any],
    expected: Row,
    mode: str,
) -> None:
    emulator.fault(call, times=None, **fault)
    ending = row(
        mode,
        settings_for(emulator),
        lambda api: api.upload(sources),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests(call)),
    )
    assert ending == expected


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_file_that_is_gone_meanwhile_is_named(emulator: Emulator, sources: list[Source], mode: str) -> None:
    Path(sources[0].uri).unlink()
    with pytest.raises(errors.InvalidInput, match="image_file_path"):
        uploaded(emulator, mode, sources)


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_file_that_became_shorter_is_not_uploaded(
    emulator: Emulator, sources: list[Source], pauses: list[float], mode: str
) -> None:
    longer = [replace(sources[0], size=sources[0].size + 1)]
    with pytest.raises(errors.StorageFailed, match="became shorter"):
        uploaded(emulator, mode, longer)


# --- down ---


@pytest.fixture(scope="module")
def job_id(emulator: Emulator) -> str:
    """A job that is complete."""
    assets = {"image": emulator.put_asset(b"photo", "png"), "audio": emulator.put_asset(b"voice", "wav")}
    submitted = through(
        "sync",
        settings_for(emulator),
        lambda api: api.submit(create_talking_photo(INPUTS, **assets, name="n")),
    )
    return str(submitted.job_id)


@pytest.fixture(scope="module")
def video(emulator: Emulator, job_id: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = Target(f"{tmp_path_factory.mktemp('video')}/video.mp4")
    through("sync", settings_for(emulator), lambda api: api.download(job_id, target))
    return Path(target.uri).read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_video_comes_whole_with_what_is_known_of_its_job(
    emulator: Emulator, job_id: str, tmp_path: Path, mode: str
) -> None:
    job = through(
        mode, settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4"))
    )
    assert (job.job_id, job.status, job.clip_seconds) == (job_id, "complete", 1)
    [(name, content)] = files(tmp_path).items()
    assert (name, content[4:8]) == ("me.mp4", b"ftyp")


DOWNLOAD_FAULTS: list[tuple[dict[str, Any], int | None]] = [
    ({"status": 403}, 403),  # the signed URL has expired
    ({"status": 404}, 404),
    ({"status": 500}, 500),
    ({"status": 503}, 503),
    ({"html": True}, 502),
    ({"html": True, "status": 200}, None),
    ({"body": ""}, None),
    ({"truncate": 5}, None),
    ({"truncate": 8000}, None),  # half of it, with the length of that half
    ({"cut": 100}, None),
    ({"cut": 4}, None),
    ({"reset": "before"}, None),
]


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize("fault", [fault for fault, _ in DOWNLOAD_FAULTS], ids=str)
def test_a_video_that_did_not_arrive_is_asked_for_again_with_a_fresh_url(
    emulator: Emulator,
    job_id: str,
    video: bytes,
    tmp_path: Path,
    pauses: list[float],
    fault: dict[str, Any],
    mode: str,
) -> None:
    before = counted(emulator, "get_video", "download")
    emulator.fault("download", **fault)
    through(mode, settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    assert files(tmp_path) == {"me.mp4": video}
    assert counted(emulator, "get_video", "download") == [before[0] + 2, before[1] + 2]
    first, second = (call["query"] for call in emulator.requests("download")[-2:])
    assert first != second


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize("before", [None, b"the old one"], ids=["new", "replace"])
@pytest.mark.parametrize(("fault", "status"), DOWNLOAD_FAULTS, ids=str)
def test_a_video_that_never_arrives_leaves_the_target_as_it_was(
    emulator: Emulator,
    job_id: str,
    tmp_path: Path,
    pauses: list[float],
    fault: dict[str, Any],
    status: int | None,
    before: bytes | None,
    mode: str,
) -> None:
    if before:
        (tmp_path / "me.mp4").write_bytes(before)
    emulator.fault("download", times=None, **fault)
    target = Target(f"{tmp_path}/me.mp4", replace=True)
    ending = row(
        mode,
        settings_for(emulator),
        lambda api: api.download(job_id, target),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests("download")),
    )
    assert ending == Row("DownloadFailed", status, True, "yes", requests=4)
    assert files(tmp_path) == ({"me.mp4": before} if before else {})


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_storage_host_that_falls_silent_is_left_after_a_while(
    emulator: Emulator, job_id: str, video: bytes, tmp_path: Path, pauses: list[float], mode: str
) -> None:
    emulator.fault("download", hang=1.5)
    settings = settings_for(emulator, timeout=0.5)
    through(mode, settings, lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    assert files(tmp_path) == {"me.mp4": video}


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"status": 500}, "the API did not say where it is"),
        ({"status": 404}, "the API did not say where it is"),
        ({"body": {"id": "x", "status": "complete", "downloads": []}}, "no download URL"),
        ({"body": {"id": "x", "status": "rendering"}}, "the job is rendering"),
    ],
    ids=str,
)
def test_a_video_whose_url_cannot_be_had_is_paid_for_and_safe(
    emulator: Emulator,
    job_id: str,
    tmp_path: Path,
    pauses: list[float],
    fault: dict[str, Any],
    why: str,
    mode: str,
) -> None:
    emulator.fault("get_video", times=None, **fault)
    with pytest.raises(errors.DownloadFailed, match=f"{why}.*paid for and stays") as failed:
        through(mode, settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    assert (failed.value.job_id, failed.value.retryable, failed.value.charged) == (job_id, True, "yes")
    assert files(tmp_path) == {}


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_job_without_a_video_is_not_asked_for_twice(emulator: Emulator, tmp_path: Path, mode: str) -> None:
    emulator.fault("get_video", body={"id": "x", "status": "error", "error": {"code": "no_source_face"}})
    with pytest.raises(errors.JobFailed, match="no_source_face"):
        through(mode, settings_for(emulator), lambda api: api.download("x", Target(f"{tmp_path}/me.mp4")))


@pytest.mark.parametrize("mode", BLOCKING)
def test_a_target_that_is_taken_meanwhile_is_not_overwritten(
    emulator: Emulator, job_id: str, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "me.mp4").write_bytes(b"somebody's")
    with pytest.raises(errors.TargetExists):
        through(mode, settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    assert files(tmp_path) == {"me.mp4": b"somebody's"}


# --- the key ---


@pytest.mark.parametrize("mode", BLOCKING)
def test_the_storage_host_never_sees_the_key(
    emulator: Emulator, sources: list[Source], job_id: str, tmp_path: Path, mode: str
) -> None:
    uploaded(emulator, mode, sources)
    through(mode, settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    received = [*emulator.requests("put"), *emulator.requests("download")]
    assert received
    assert KEY not in str(received)
    assert not any("authorization" in request["headers"] for request in received)


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize(
    ("call", "fault"),
    [
        *((call, fault) for call in ("put", "download") for fault in ({"status": 403}, {"reset": "before"})),
        ("download", {"cut": 50}),
    ],
    ids=str,
)
def test_no_error_about_files_shows_a_signature(
    emulator: Emulator,
    sources: list[Source],
    job_id: str,
    tmp_path: Path,
    pauses: list[float],
    call: str,
    fault: dict[str, Any],
    mode: str,
) -> None:
    def use(api: Any) -> Any:
        target = Target(f"{tmp_path}/me.mp4")
        return api.upload(sources) if call == "put" else api.download(job_id, target)

    emulator.fault(call, times=None, **fault)
    with pytest.raises(errors.TransferFailed) as failed:
        through(mode, settings_for(emulator), use)
    shown = f"{failed.value!r} {vars(failed.value)} {failed.value.__cause__!r}"
    assert "X-Amz" not in shown
    assert KEY not in shown
