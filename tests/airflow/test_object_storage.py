"""S3 at both ends: whole or not at all, however large, and what cannot work is said before it is paid for."""

from __future__ import annotations

import gc
import hashlib
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from harness import both_modes

from magichour_provider.exceptions import InvalidInput, StorageFailed, TargetExists
from magichour_provider.files.storage import CHUNK_BYTES, Source, Target

if TYPE_CHECKING:
    from buckets import Buckets
    from harness import Airflow

    from magichour_provider.emulator import Emulator

MIB = 1 << 20
VIDEO = "s3://store@media/videos/me.mp4"
LIST = ("s3:ListBucket", "s3:HeadBucket")  # S3 asks for the first only, moto for both


@both_modes
@pytest.mark.parametrize("place", ["videos/", "videos/ada.mp4"], ids=["folder", "exact"])
def test_photo_and_voice_come_from_a_bucket_and_the_video_goes_there(
    airflow: Airflow, emulator: Emulator, s3: Buckets, place: str, deferrable: bool
) -> None:
    s3.put("people/ada.jpg", airflow.photo.read_bytes())
    s3.put("people/ada.mp3", airflow.voice.read_bytes())

    run = airflow.video(
        image_file_path="s3://store@media/people/ada.jpg",
        audio_file_path="s3://store@media/people/ada.mp3",
        output_path=f"s3://store@media/{place}",
        deferrable=deferrable,
    )

    assert run.state() == "success", run.errors()
    assert {request["bytes"] for request in emulator.requests("put")} == {
        airflow.photo.stat().st_size,
        airflow.voice.stat().st_size,
    }
    (video,) = (key for key in s3.keys() if key.startswith("videos/"))  # noqa: SIM118
    assert run.result()["output_path"] == f"s3://store@media/{video}"
    assert video == (place if place.endswith(".mp4") else f"videos/{run.result()['job_id']}.mp4")
    assert s3.get(video)[4:8] == b"ftyp"


def test_a_large_file_goes_in_and_out_in_little_memory(s3: Buckets) -> None:
    chunk = bytes(range(256)) * (CHUNK_BYTES // 256)
    written = hashlib.sha256()
    read = hashlib.sha256()
    with Target(VIDEO).open_atomic() as write:  # what is imported and cached, is before memory is measured
        write(b"small")
    tracemalloc.start()
    try:
        with Target(VIDEO, replace=True).open_atomic() as write:
            for _ in range(120):
                write(chunk)
                written.update(chunk)
        for part in Source.find("image_file_path", "image", VIDEO).chunks():
            read.update(part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert read.digest() == written.digest()
    assert s3.client.head_object(Bucket="media", Key="videos/me.mp4")["ContentLength"] == 120 * MIB
    assert peak < 50 * MIB


@pytest.mark.parametrize("mib", [0, 20], ids=["one request", "several"])
def test_a_video_that_does_not_arrive_whole_leaves_nothing(s3: Buckets, mib: int) -> None:
    def deliver() -> None:
        with Target(VIDEO).open_atomic() as write:
            for _ in range(mib):
                write(b"." * MIB)
            write(b"and half a chunk")
            assert s3.keys() == []
            raise RuntimeError("the download broke")

    with pytest.raises(RuntimeError):
        deliver()
    gc.collect()
    assert (s3.keys(), s3.unfinished()) == ([], [])


@pytest.mark.parametrize("mib", [0, 20], ids=["one request", "several"])
def test_a_file_that_appears_while_the_video_comes_is_not_overwritten(s3: Buckets, mib: int) -> None:
    def deliver() -> None:
        with Target(VIDEO).open_atomic() as write:
            for _ in range(mib):
                write(b"." * MIB)
            write(b"and a bit")
            s3.put("videos/me.mp4", b"somebody's")

    with pytest.raises(TargetExists):
        deliver()
    assert s3.get("videos/me.mp4") == b"somebody's"
    assert (s3.keys(), s3.unfinished()) == (["videos/me.mp4"], [])


@pytest.mark.parametrize("name", ["a b", "a%20b", "10:30", "a#b", "a?b", "a@b", "ä 日", "a+b&c=d", "what?"])
def test_a_key_means_the_same_to_airflow_and_to_s3(s3: Buckets, name: str) -> None:
    s3.put(f"people/{name}.png", b"photo")
    assert b"".join(Source.find("f", "image", f"s3://store@media/people/{name}.png").chunks()) == b"photo"
    target = Target(f"s3://store@media/{name}/").for_job("job-1")
    target.check()
    with target.open_atomic() as write:
        write(b"video")
    assert s3.get(f"{name}/job-1.mp4") == b"video"


@pytest.mark.parametrize("place", ["videos/", "videos/me.mp4", ""])
def test_what_is_tried_leaves_nothing_in_the_bucket(s3: Buckets, place: str) -> None:
    Target(f"s3://store@media/{place}").check()
    assert (s3.keys(), s3.unfinished()) == ([], [])


def test_what_was_listed_before_is_looked_at_again(s3: Buckets) -> None:
    from airflow.sdk import ObjectStoragePath

    s3.put("videos/other.mp4", b"")
    assert len(list(ObjectStoragePath("s3://store@media/videos").iterdir())) == 1
    s3.put("videos/me.mp4", b"somebody's")
    with pytest.raises(TargetExists):
        Target(VIDEO).check()


# --- what cannot work ---


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"output_path": "s3://store@nowhere/videos/"}, "there is no bucket 'nowhere'; create it"),
        ({"output_path": "s3://store@nowhere/me.mp4"}, "there is no bucket 'nowhere'; create it"),
        ({"image_file_path": "s3://store@nowhere/me.jpg"}, "there is no bucket 'nowhere'; create it"),
        ({"audio_file_path": "s3://store@media/no.mp3"}, "there is no such file; check the path"),
        ({"output_path": "s3://nobody@media/me.mp4"}, "nobody.*create that connection"),
        ({"image_file_path": "s3://nobody@media/me.jpg"}, "nobody.*create that connection"),
        ({"output_path": "adl://media/me.mp4"}, "adl.*install the Airflow provider"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(
    airflow: Airflow, emulator: Emulator, s3: Buckets, arguments: dict[str, str], said: str
) -> None:
    run = airflow.video(**arguments, retries=2)

    ((field, value),) = arguments.items()
    (error,) = run.raised()
    assert isinstance(error, AirflowFailException)
    with pytest.raises(InvalidInput, match=rf"^{field}='{value}': .*{said}"):
        raise error
    assert (emulator.requests(), s3.names()) == ([], ["media"])


@pytest.mark.parametrize("place", ["videos/", "videos/me.mp4"])
def test_a_key_that_may_not_write_is_known_before_anything_is_paid(
    s3: Buckets, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    target = Target(f"s3://store@media/{place}")
    with s3.allowing("s3:GetObject", *LIST) as connection:
        monkeypatch.setenv("AIRFLOW_CONN_STORE", connection)
        with pytest.raises(InvalidInput, match=r"^output_path=.*: not allowed .* its permissions$"):
            target.check()


def test_a_key_that_may_write_is_enough(s3: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3.allowing("s3:GetObject", "s3:PutObject", *LIST) as connection:
        monkeypatch.setenv("AIRFLOW_CONN_STORE", connection)
        Target(VIDEO).check()


def test_a_key_of_s3_that_is_too_long_is_known_before_anything_is_paid(s3: Buckets) -> None:
    Target(f"s3://store@media/{'a' * 1020}.mp4").check()
    with pytest.raises(InvalidInput, match="at most 1024 bytes"):
        Target(f"s3://store@media/{'a' * 1021}.mp4").check()


@pytest.mark.parametrize("field", ["image_file_path", "output_path"])
def test_a_wrong_key_is_said_before_anything_is_sent(
    airflow: Airflow, emulator: Emulator, s3: Buckets, field: str
) -> None:
    with s3.knowing_no_key():
        run = airflow.video(**{field: "s3://store@media/me.jpg"}, retries=2)

    (said,) = run.errors()
    assert f"{field}='s3://store@media/me.jpg': not allowed" in said
    assert "check the key and its permissions" in said
    assert "secret of the tests" not in said
    assert emulator.requests() == []


def test_a_store_that_cannot_be_asked_is_asked_again(
    airflow: Airflow, emulator: Emulator, s3: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_listens = s3.connection(
        endpoint_url="http://127.0.0.1:9", config_kwargs={"retries": {"max_attempts": 0}}
    )
    monkeypatch.setenv("AIRFLOW_CONN_STORE", nobody_listens)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)

    run = airflow.video(output_path=VIDEO, retries=1)

    assert [isinstance(error, StorageFailed) for error in run.raised()] == [True, True]
    assert f"output_path='{VIDEO}': the storage failed (EndpointConnectionError" in run.errors()[0]
    assert emulator.requests() == []
