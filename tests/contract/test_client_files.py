"""Photos and voices go up, videos come down, whole or not at all, and the storage host never sees the key."""

from __future__ import annotations

import gzip
import signal
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from both import KEY, Row, StandIn, row, says, settings_for, stand_in, through

from magichour_provider import exceptions as errors
from magichour_provider.api.inputs import TalkingPhotoInputs
from magichour_provider.api.wire import paid_call
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


def uploaded(emulator: Emulator, sources: list[Source], **settings: Any) -> list[str]:
    paths: list[str] = through("sync", settings_for(emulator, **settings), lambda api: api.upload(sources))
    return paths


def test_two_files_need_one_call_for_their_urls_and_can_then_be_used(
    emulator: Emulator, sources: list[Source]
) -> None:
    before = counted(emulator, "upload_urls", "put")
    image, audio = uploaded(emulator, sources)
    assert counted(emulator, "upload_urls", "put") == [before[0] + 1, before[1] + 2]
    assert {put["bytes"] for put in emulator.requests("put")[-2:]} == {source.size for source in sources}
    assert (image[:11], image[-4:], audio[-4:]) == ("api-assets/", ".png", ".wav")
    through(
        "sync",
        settings_for(emulator),
        lambda api: api.submit(paid_call(INPUTS, {"image_file_path": image, "audio_file_path": audio}, "n")),
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
            uploaded(emulator, sources[:1])
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


@pytest.mark.parametrize("fault", UPLOAD_FAULTS, ids=str)
def test_a_file_that_did_not_get_through_is_sent_again_and_it_alone(
    emulator: Emulator, sources: list[Source], pauses: list[float], fault: dict[str, Any]
) -> None:
    before = counted(emulator, "upload_urls", "put")
    emulator.fault("put", skip=1, **fault)
    paths = uploaded(emulator, sources)
    assert [path[-4:] for path in paths] == [".png", ".wav"]
    assert counted(emulator, "upload_urls", "put") == [before[0] + 2, before[1] + 3]
    asked = [call["json"]["items"] for call in emulator.requests("upload_urls")[-2:]]
    assert [item["extension"] for item in asked[0]] == ["png", "wav"]
    assert len(asked[1]) == 1
    through(
        "sync",
        settings_for(emulator),
        lambda api: api.submit(
            paid_call(INPUTS, {"image_file_path": paths[0], "audio_file_path": paths[1]}, "n")
        ),
    )


def test_places_that_would_mix_up_two_files_are_refused_before_anything_is_sent(
    emulator: Emulator, sources: list[Source], pauses: list[float]
) -> None:
    place = {"file_path": "api-assets/1/a.png", "upload_url": f"{emulator.url}/1"}
    before = counted(emulator, "put", "create")
    emulator.fault("upload_urls", times=4, body={"items": [place, place]})
    with pytest.raises(errors.UploadFailed, match="the file_path of another file"):
        uploaded(emulator, sources)
    assert counted(emulator, "put", "create") == before
    assert [path[-4:] for path in uploaded(emulator, sources)] == [".png", ".wav"]


class Elsewhere(ThreadingHTTPServer):
    """Takes any upload, and answers with these statuses first, each of them with a new address."""

    def __init__(self, *redirects: tuple[int, str]) -> None:
        super().__init__(("127.0.0.1", 0), Uploads)
        self.redirects = list(redirects)
        self.uploads: list[tuple[str, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Uploads(BaseHTTPRequestHandler):
    server: Elsewhere

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.server.uploads.append((self.path, dict(self.headers), content))
        status, location = self.server.redirects.pop(0) if self.server.redirects else (200, "")
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """The tests look at what arrived."""


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_an_upload_that_is_redirected_arrives_at_the_other_address(
    emulator: Emulator, sources: list[Source], elsewhere: Elsewhere, status: int
) -> None:
    elsewhere.redirects = [(status, "/again?X-Amz-Signature=2")]  # a relative one too
    emulator.fault("put", status=status, headers={"Location": f"{elsewhere.url}/moved?X-Amz-Signature=1"})
    uploaded(emulator, sources[:1])
    photo = Path(sources[0].uri).read_bytes()
    assert [(path, content) for path, _, content in elsewhere.uploads] == [
        ("/moved?X-Amz-Signature=1", photo),
        ("/again?X-Amz-Signature=2", photo),
    ]
    assert KEY not in str([headers for _, headers, _ in elsewhere.uploads])


@pytest.mark.parametrize(
    ("status", "location", "requests"),
    [
        (303, "{url}/see-other", 0),  # not the file's place, but a page about it
        (307, "ftp://127.0.0.1/", 0),
        (307, "file:///etc/passwd", 0),
        (307, "{url}/round-and-round", 5),
        (307, "http://127.0.0.1:port/", 0),
        (307, "http://a..b/", 0),
    ],
)
def test_an_upload_that_is_sent_nowhere_has_not_arrived(
    emulator: Emulator,
    sources: list[Source],
    elsewhere: Elsewhere,
    pauses: list[float],
    status: int,
    location: str,
    requests: int,
) -> None:
    elsewhere.redirects = [(307, "/round-and-round")] * 100
    emulator.fault("put", times=None, status=status, headers={"Location": location.format(url=elsewhere.url)})
    with pytest.raises(errors.UploadFailed) as failed:
        uploaded(emulator, sources[:1])
    assert (failed.value.retryable, failed.value.charged) == (True, "no")
    assert len(elsewhere.uploads) == 4 * requests  # attempts


def test_an_upload_is_not_redirected_from_https_to_http(
    emulator: Emulator, sources: list[Source], elsewhere: Elsewhere, tls: ssl.SSLContext, pauses: list[float]
) -> None:
    moved = f"HTTP/1.1 307 Moved\r\nLocation: {elsewhere.url}/\r\nContent-Length: 0\r\n\r\n"
    with stand_in(says(moved), tls=tls) as secure:
        place = {"file_path": "api-assets/1/a.png", "upload_url": f"{secure.url}/1"}
        emulator.fault("upload_urls", times=None, body={"items": [place]})
        with pytest.raises(errors.UploadFailed, match=r"storage host 127\.0\.0\.1 answered HTTP 307"):
            uploaded(emulator, sources[:1])
    assert elsewhere.uploads == []


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
) -> None:
    emulator.fault(call, times=None, **fault)
    ending = row(
        "sync",
        settings_for(emulator),
        lambda api: api.upload(sources),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests(call)),
    )
    assert ending == expected


def test_a_file_that_is_gone_meanwhile_is_named(emulator: Emulator, sources: list[Source]) -> None:
    Path(sources[0].uri).unlink()
    with pytest.raises(errors.InvalidInput, match="image_file_path"):
        uploaded(emulator, sources)


def test_a_file_that_became_shorter_is_not_uploaded(
    emulator: Emulator, sources: list[Source], pauses: list[float]
) -> None:
    longer = [replace(sources[0], size=sources[0].size + 1)]
    with pytest.raises(errors.StorageFailed, match="became shorter"):
        uploaded(emulator, longer)


# --- down ---


@pytest.fixture(scope="module")
def job_id(emulator: Emulator) -> str:
    """A job that is complete."""
    assets = {
        "image_file_path": emulator.put_asset(b"photo", "png"),
        "audio_file_path": emulator.put_asset(b"voice", "wav"),
    }
    submitted = through(
        "sync",
        settings_for(emulator),
        lambda api: api.submit(paid_call(INPUTS, assets, "n")),
    )
    return str(submitted.job_id)


@pytest.fixture(scope="module")
def video(emulator: Emulator, job_id: str, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = Target(f"{tmp_path_factory.mktemp('video')}/video.mp4")
    through("sync", settings_for(emulator), lambda api: api.download(job_id, target))
    return Path(target.uri).read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_video_comes_whole_with_what_is_known_of_its_job(
    emulator: Emulator, job_id: str, tmp_path: Path
) -> None:
    job = through(
        "sync", settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4"))
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


@pytest.mark.parametrize("fault", [fault for fault, _ in DOWNLOAD_FAULTS], ids=str)
def test_a_video_that_did_not_arrive_is_asked_for_again_with_a_fresh_url(
    emulator: Emulator, job_id: str, video: bytes, tmp_path: Path, pauses: list[float], fault: dict[str, Any]
) -> None:
    before = counted(emulator, "get_video", "download")
    emulator.fault("download", **fault)
    through("sync", settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    assert files(tmp_path) == {"me.mp4": video}
    assert counted(emulator, "get_video", "download") == [before[0] + 2, before[1] + 2]
    first, second = (call["query"] for call in emulator.requests("download")[-2:])
    assert first != second


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
) -> None:
    if before:
        (tmp_path / "me.mp4").write_bytes(before)
    emulator.fault("download", times=None, **fault)
    target = Target(f"{tmp_path}/me.mp4", replace=True)
    ending = row(
        "sync",
        settings_for(emulator),
        lambda api: api.download(job_id, target),
        charges=emulator.charges,
        requests=lambda: len(emulator.requests("download")),
    )
    assert ending == Row("DownloadFailed", status, True, "yes", requests=4)
    assert files(tmp_path) == ({"me.mp4": before} if before else {})


# --- which of the URLs ---


@dataclass
class Listed:
    """Has the API answer with other ``downloads`` for the complete job."""

    emulator: Emulator
    job_id: str

    def real(self) -> dict[str, Any]:
        """The job, as the API tells of it."""
        headers = {"Authorization": f"Bearer {KEY}"}
        url = f"{self.emulator.url}/v1/video-projects/{self.job_id}"
        return dict(httpx.get(url, headers=headers).json())

    def __call__(self, *downloads: Any, **fields: Any) -> None:
        body = self.real() | {"downloads": list(downloads)} | fields
        self.emulator.fault("get_video", times=None, body=body)


@pytest.fixture
def listed(emulator: Emulator, job_id: str) -> Listed:
    return Listed(emulator, job_id)


@pytest.fixture
def host() -> Iterator[StandIn]:
    """A storage host with other files."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(64)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(picture)}\r\n\r\n"
    with stand_in(lambda connection: connection.sendall(head.encode() + picture)) as server:
        yield server


BAD_ENTRIES: list[Any] = [
    None,
    "https://x.example/1.mp4",
    [],
    {},
    {"url": None},
    {"url": 1},
    {"url": ""},
    {"url": "/a.mp4"},
]


@pytest.mark.parametrize("bad", BAD_ENTRIES, ids=str)
def test_an_entry_that_cannot_be_read_does_not_hide_the_video(
    emulator: Emulator, listed: Listed, video: bytes, tmp_path: Path, bad: Any
) -> None:
    listed(bad, *listed.real()["downloads"])
    through(
        "sync", settings_for(emulator), lambda api: api.download(listed.job_id, Target(f"{tmp_path}/a.mp4"))
    )
    assert files(tmp_path) == {"a.mp4": video}


@pytest.mark.parametrize("downloads", [None, [], "none", {}, [{"url": "/a.mp4"}]], ids=str)
def test_the_legacy_download_is_used_where_there_is_no_list(
    emulator: Emulator, listed: Listed, video: bytes, tmp_path: Path, downloads: Any
) -> None:
    listed(download=listed.real()["downloads"][0], downloads=downloads)
    through(
        "sync", settings_for(emulator), lambda api: api.download(listed.job_id, Target(f"{tmp_path}/a.mp4"))
    )
    assert files(tmp_path) == {"a.mp4": video}


@pytest.mark.parametrize(
    ("name", "requests"), [("thumbnail.png", 0), ("thumbnail.JPG", 0), ("thumbnail", 0), ("other.mp4", 1)]
)
def test_a_thumbnail_before_the_video_is_not_taken_for_it(
    emulator: Emulator,
    listed: Listed,
    host: StandIn,
    video: bytes,
    tmp_path: Path,
    pauses: list[float],
    name: str,
    requests: int,
) -> None:
    listed({"url": f"{host.url}/{name}?X-Amz-Signature=1"}, *listed.real()["downloads"])
    through(
        "sync", settings_for(emulator), lambda api: api.download(listed.job_id, Target(f"{tmp_path}/a.mp4"))
    )
    assert files(tmp_path) == {"a.mp4": video}
    assert (host.requests, pauses) == (requests, [])


@pytest.mark.parametrize("url", ["http://a..b/1.mp4", "http://[/1.mp4", "http://127.0.0.1:port/1.mp4"])
def test_a_url_that_cannot_be_called_does_not_hide_the_video(
    emulator: Emulator, listed: Listed, video: bytes, tmp_path: Path, url: str
) -> None:
    listed({"url": url}, *listed.real()["downloads"])
    through(
        "sync", settings_for(emulator), lambda api: api.download(listed.job_id, Target(f"{tmp_path}/a.mp4"))
    )
    assert files(tmp_path) == {"a.mp4": video}


def test_a_job_with_pictures_alone_has_no_video(
    emulator: Emulator, listed: Listed, host: StandIn, tmp_path: Path, pauses: list[float]
) -> None:
    listed({"url": f"{host.url}/1.png"}, {"url": f"{host.url}/2.png"})
    with pytest.raises(errors.DownloadFailed, match="it is not an MP4") as failed:
        through(
            "sync",
            settings_for(emulator),
            lambda api: api.download(listed.job_id, Target(f"{tmp_path}/a.mp4")),
        )
    assert type(failed.value) is errors.DownloadFailed
    assert (failed.value.job_id, failed.value.retryable, failed.value.charged) == (listed.job_id, True, "yes")
    assert files(tmp_path) == {}


def test_a_transfer_that_broke_is_repeated_rather_than_another_entry_taken(
    emulator: Emulator, listed: Listed, video: bytes, tmp_path: Path, pauses: list[float]
) -> None:
    """The second one may be a smaller copy."""
    real = listed.real()["downloads"][0]
    listed(real, {"url": "http://127.0.0.1:1/small.mp4"})
    emulator.fault("download", cut=100)
    through(
        "sync", settings_for(emulator), lambda api: api.download(listed.job_id, Target(f"{tmp_path}/a.mp4"))
    )
    assert files(tmp_path) == {"a.mp4": video}
    assert len(pauses) == 1


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress])
def test_a_video_that_is_encoded_on_its_way_is_decoded(
    emulator: Emulator, listed: Listed, video: bytes, tmp_path: Path, encode: Callable[[bytes], bytes]
) -> None:
    encoded = encode(video)
    encoding = "gzip" if encode is gzip.compress else "deflate"
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(encoded)}\r\n\r\n"
    with stand_in(lambda connection: connection.sendall(head.encode() + encoded)) as host:
        listed({"url": f"{host.url}/1.mp4"})
        target = Target(f"{tmp_path}/a.mp4")
        through("sync", settings_for(emulator), lambda api: api.download(listed.job_id, target))
    assert files(tmp_path) == {"a.mp4": video}


def test_a_video_in_an_unknown_encoding_is_not_delivered(
    emulator: Emulator, listed: Listed, video: bytes, tmp_path: Path, pauses: list[float]
) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: {len(video)}\r\n\r\n"
    with stand_in(lambda connection: connection.sendall(head.encode() + video)) as host:
        listed({"url": f"{host.url}/1.mp4"})
        with pytest.raises(errors.DownloadFailed, match="Content-Encoding 'br'"):
            through(
                "sync",
                settings_for(emulator),
                lambda api: api.download(listed.job_id, Target(f"{tmp_path}/a.mp4")),
            )
    assert files(tmp_path) == {}


def test_a_storage_host_that_falls_silent_is_left_after_a_while(
    emulator: Emulator, job_id: str, video: bytes, tmp_path: Path, pauses: list[float]
) -> None:
    emulator.fault("download", hang=1.5)
    settings = settings_for(emulator, timeout=0.5)
    through("sync", settings, lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    assert files(tmp_path) == {"me.mp4": video}


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ({"status": 500}, "the API gave no download URL"),
        ({"status": 404}, "the API gave no download URL"),
        ({"body": {"status": "complete", "downloads": []}}, "no download URL"),
        ({"body": {"status": "rendering"}}, "the job is rendering"),
    ],
    ids=str,
)
def test_a_video_whose_url_cannot_be_had_is_paid_for_and_safe(
    emulator: Emulator, job_id: str, tmp_path: Path, pauses: list[float], fault: dict[str, Any], why: str
) -> None:
    if "body" in fault:
        fault = {"body": {"id": job_id, **fault["body"]}}
    emulator.fault("get_video", times=None, **fault)
    with pytest.raises(errors.DownloadFailed, match=f"{why}.*paid for and stays") as failed:
        through(
            "sync", settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4"))
        )
    assert (failed.value.job_id, failed.value.retryable, failed.value.charged) == (job_id, True, "yes")
    assert files(tmp_path) == {}


def test_a_job_without_a_video_is_not_asked_for_twice(emulator: Emulator, tmp_path: Path) -> None:
    emulator.fault("get_video", body={"id": "x", "status": "error", "error": {"code": "no_source_face"}})
    with pytest.raises(errors.JobFailed, match="no_source_face"):
        through("sync", settings_for(emulator), lambda api: api.download("x", Target(f"{tmp_path}/me.mp4")))


def test_a_target_that_is_taken_meanwhile_is_not_overwritten(
    emulator: Emulator, job_id: str, tmp_path: Path
) -> None:
    (tmp_path / "me.mp4").write_bytes(b"somebody's")
    with pytest.raises(errors.TargetExists):
        through(
            "sync", settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4"))
        )
    assert files(tmp_path) == {"me.mp4": b"somebody's"}


# --- the key ---


def test_the_storage_host_never_sees_the_key(
    emulator: Emulator, sources: list[Source], job_id: str, tmp_path: Path
) -> None:
    uploaded(emulator, sources)
    through("sync", settings_for(emulator), lambda api: api.download(job_id, Target(f"{tmp_path}/me.mp4")))
    received = [*emulator.requests("put"), *emulator.requests("download")]
    assert received
    assert KEY not in str(received)
    assert not any("authorization" in request["headers"] for request in received)


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
) -> None:
    def use(api: Any) -> Any:
        target = Target(f"{tmp_path}/me.mp4")
        return api.upload(sources) if call == "put" else api.download(job_id, target)

    emulator.fault(call, times=None, **fault)
    with pytest.raises(errors.TransferFailed) as failed:
        through("sync", settings_for(emulator), use)
    shown = f"{failed.value!r} {vars(failed.value)} {failed.value.__cause__!r}"
    assert "X-Amz" not in shown
    assert KEY not in shown
