"""Files at our end: found, checked, read and written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook
from fsspec.implementations.memory import MemoryFileSystem

from magichour_provider.exceptions import InvalidInput, StorageFailed, TargetExists
from magichour_provider.files.storage import CHUNK_BYTES, Source, Target


def find(path: Path | str) -> Source:
    return Source.find("image_file_path", "image", str(path))


def write(target: Target, *chunks: bytes) -> None:
    with target.open_atomic() as take:
        for chunk in chunks:
            take(chunk)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is uploaded ---


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES * 2 + 1])
def test_a_file_is_read_whole_in_chunks(tmp_path: Path, size: int, scheme: str) -> None:
    photo = tmp_path / "me.PNG"
    photo.write_bytes(bytes(i % 251 for i in range(1000)) * (size // 1000) + b"." * (size % 1000))
    source = find(f"{scheme}{photo}")
    chunks = list(source.chunks())
    assert b"".join(chunks) == photo.read_bytes()
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert (source.size, source.extension) == (size, "png")


def test_a_relative_path_begins_where_the_task_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me.png").write_bytes(b"photo")
    assert b"".join(find("me.png").chunks()) == b"photo"
    target = Target("videos/").for_job("job-1")
    target.check()
    write(target, b"a video")
    assert files(tmp_path / "videos") == {"job-1.mp4": b"a video"}


def test_a_tilde_is_the_home_of_who_runs_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "me.png").write_bytes(b"photo")
    assert b"".join(find("~/me.png").chunks()) == b"photo"
    write(Target("~/videos/").for_job("job-1"), b"a video")
    assert files(tmp_path / "videos") == {"job-1.mp4": b"a video"}


def test_a_link_to_a_file_is_the_file(tmp_path: Path) -> None:
    (tmp_path / "me.png").write_bytes(b"1234")
    (tmp_path / "link.png").symlink_to(tmp_path / "me.png")
    assert b"".join(find(tmp_path / "link.png").chunks()) == b"1234"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^image_file_path='.*/no\.png': there is no such file"):
        find(tmp_path / "no.png")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "me.png").touch()
    with pytest.raises(InvalidInput, match=r"^image_file_path='.*/me\.png': is an empty file"):
        find(tmp_path / "me.png")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"^image_file_path='.*': is a folder; name a file in it"):
        find(tmp_path)


def test_a_kind_of_storage_that_airflow_cannot_open() -> None:
    with pytest.raises(InvalidInput, match=r"^image_file_path='no://bucket/me\.png': .*install") as refused:
        find("no://bucket/me.png")
    assert not refused.value.retryable


def test_a_file_that_became_shorter_is_not_uploaded_as_if_it_were_whole(tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(b"12345678")
    source = find(photo)
    photo.write_bytes(b"1234")
    with pytest.raises(StorageFailed, match="became shorter") as failed:
        list(source.chunks())
    assert (failed.value.retryable, failed.value.charged) == (True, "no")


def test_a_file_that_grows_is_uploaded_as_it_was_found(tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(b"1234")
    source = find(photo)
    photo.write_bytes(b"12345678")
    assert b"".join(source.chunks()) == b"1234"


def test_a_file_that_is_gone_by_the_time_it_is_read(tmp_path: Path) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(b"1234")
    source = find(photo)
    photo.unlink()
    with pytest.raises(InvalidInput, match="check the path"):
        list(source.chunks())


# --- where the video goes ---


def test_a_name_that_ends_in_a_slash_is_a_folder_for_the_jobs_file(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/videos/")
    target.check()
    write(target.for_job("job-1"), b"video")
    assert files(tmp_path / "videos") == {"job-1.mp4": b"video"}


def test_any_other_name_is_the_file(tmp_path: Path) -> None:
    write(Target(f"{tmp_path}/a/b/me.mp4").for_job("job-1"), b"vid", b"eo")
    assert files(tmp_path) == {"me.mp4": b"video"}


def test_a_folder_may_hold_other_videos(tmp_path: Path) -> None:
    (tmp_path / "job-0.mp4").write_bytes(b"other")
    Target(f"{tmp_path}/").check()


def test_a_jobs_own_file_in_a_folder_is_written_again(tmp_path: Path) -> None:
    (tmp_path / "job-1.mp4").write_bytes(b"an earlier try's")
    write(Target(f"{tmp_path}/").for_job("job-1"), b"video")
    assert files(tmp_path) == {"job-1.mp4": b"video"}


def test_a_file_that_is_there_is_not_overwritten_unless_told_so(tmp_path: Path) -> None:
    (tmp_path / "me.mp4").write_bytes(b"precious")
    uri = f"{tmp_path}/me.mp4"
    with pytest.raises(TargetExists, match=rf"^output_path='{uri}': .*replace=True"):
        Target(uri).check()
    with pytest.raises(TargetExists):
        write(Target(uri), b"video")
    assert files(tmp_path) == {"me.mp4": b"precious"}

    Target(uri, replace=True).check()
    write(Target(uri, replace=True), b"video")
    assert files(tmp_path) == {"me.mp4": b"video"}


def test_a_file_that_appears_while_the_video_comes_is_not_overwritten(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/me.mp4")
    target.check()

    def deliver() -> None:
        with target.open_atomic() as take:
            take(b"video")
            (tmp_path / "me.mp4").write_bytes(b"somebody's")

    with pytest.raises(TargetExists):
        deliver()
    assert files(tmp_path) == {"me.mp4": b"somebody's"}


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_without_its_slash_is_asked_for_it(tmp_path: Path, replace: bool) -> None:
    with pytest.raises(InvalidInput, match=r"is a folder; let it end in '/'"):
        Target(str(tmp_path), replace).check()


@pytest.mark.parametrize("before", [None, b"the old one"])
@pytest.mark.parametrize("end", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_written_when_the_block_raises(
    tmp_path: Path, end: type[BaseException], before: bytes | None
) -> None:
    place = tmp_path / "me.mp4"
    if before:
        place.write_bytes(before)

    def deliver() -> None:
        with Target(str(place), replace=True).open_atomic() as take:
            take(b"half a vid")
            raise end

    with pytest.raises(end):
        deliver()
    assert files(tmp_path) == ({"me.mp4": before} if before else {})


def test_the_video_is_not_seen_under_its_name_before_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "me.mp4"
    with Target(str(place)).open_atomic() as take:
        take(b"video")
        assert not place.exists()
    assert files(tmp_path) == {"me.mp4": b"video"}


def test_a_target_that_airflow_cannot_open_is_known_before_anything_is_paid() -> None:
    with pytest.raises(InvalidInput, match=r"^output_path='no://bucket/me\.mp4': .*install"):
        Target("no://bucket/me.mp4").check()


def test_the_current_folder_is_no_file() -> None:
    with pytest.raises(InvalidInput, match=r"^output_path='\.': is a folder; let it end in '/'"):
        Target(".").check()


def test_a_target_under_a_file_is_known_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "me").write_bytes(b"a file")
    with pytest.raises(InvalidInput, match=r"^output_path='.*/me/video\.mp4': Not a directory"):
        Target(f"{tmp_path}/me/video.mp4").check()


@pytest.mark.parametrize("uri", ["{}/new/", "{}/new/video.mp4", "{}/video.mp4", "file://{}/new/video.mp4"])
def test_a_folder_that_may_not_be_written_to_is_known_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    # Not by chmod: the tests may be root's, who may write everywhere.
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(InvalidInput, match=r"^output_path=.*may not be written to; choose another"):
        Target(uri.format(tmp_path)).check()


# --- object storage ---


def test_object_storage_is_read_and_written_like_files(
    bucket: Any,
) -> None:
    storage = MemoryFileSystem()
    bucket(lambda _: storage)
    storage.pipe("/photos/me.png", b"photo")
    assert b"".join(find("memory://photos/me.png").chunks()) == b"photo"

    target = Target("memory://videos/new/").for_job("job-1")
    write(target, b"vid", b"eo")
    write(target, b"video 2")
    assert storage.find("/videos") == ["/videos/new/job-1.mp4"]
    assert storage.cat("/videos/new/job-1.mp4") == b"video 2"
    with pytest.raises(TargetExists):
        Target("memory://videos/new/job-1.mp4").check()


def test_a_connection_that_does_not_exist_is_named_with_its_remedy(
    bucket: Any,
) -> None:
    bucket(BaseHook.get_connection)
    with pytest.raises(
        InvalidInput, match=r"^image_file_path='memory://nobody@photos/me\.png'.*nobody.*create"
    ):
        find("memory://nobody@photos/me.png")


class Broken(MemoryFileSystem):
    """Connects, and then answers nothing."""

    cachable = False

    def info(self, path: str, **_: Any) -> Any:
        raise ConnectionError("no route to host")


def never_connects(_: str) -> Any:
    raise ConnectionError("no route to host")


@pytest.mark.parametrize("filesystem", [never_connects, lambda _: Broken()], ids=["connect", "ask"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda: find("memory://aws@a/me.png"),
        Target("memory://aws@a/me.mp4").check,
        Target("memory://aws@a/").check,
    ],
    ids=["source", "file", "folder"],
)
def test_a_store_that_does_not_answer_is_not_an_empty_one(
    bucket: Any,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[], object],
    filesystem: Callable[[str], Any],
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AWS", "aws://")
    bucket(filesystem)
    with pytest.raises(StorageFailed, match="no route to host") as failed:
        ask()
    assert (failed.value.retryable, failed.value.charged) == (True, "no")


class Google(MemoryFileSystem):
    """As ``gcsfs``: of a bucket that is not there, it says the same as of a file."""

    cachable = False

    def info(self, path: str, **_: Any) -> Any:
        raise FileNotFoundError(path)

    def call(self, method: str, path: str, *arguments: str, **_: Any) -> Any:
        assert (method, path) == ("GET", "b/{}/o")
        if arguments != ("media",):
            raise FileNotFoundError(*arguments)


def test_a_bucket_of_google_that_is_not_there_is_known_before_anything_is_paid(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GC", "google-cloud-platform://")
    bucket(lambda _: Google())
    Target("gs://gc@media/me.mp4").check()
    with pytest.raises(InvalidInput, match=r"^output_path='gs://gc@no/me.mp4': there is no bucket 'no'"):
        Target("gs://gc@no/me.mp4").check()


class AzureRefusal(Exception):
    """As ``azure.core`` puts it."""

    status_code = 403


@pytest.mark.parametrize(
    "refusal",
    [PermissionError("AccessDenied"), AzureRefusal("AuthorizationFailure"), OSError("Forbidden: a/me.png")],
    ids=["S3", "Azure", "GCS"],
)
def test_a_key_that_is_not_accepted_is_no_matter_for_a_retry(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    class Refusing(Broken):
        def info(self, path: str, **_: Any) -> Any:
            raise refusal

    monkeypatch.setenv("AIRFLOW_CONN_AWS", "aws://")
    bucket(lambda _: Refusing())
    with pytest.raises(InvalidInput, match=r"^image_file_path='memory://aws@a/me.png': not all") as refused:
        find("memory://aws@a/me.png")
    assert not refused.value.retryable


def test_two_tries_that_bring_the_same_video_at_once_cost_no_more_than_a_retry(tmp_path: Path) -> None:
    target = Target(str(tmp_path / "video.mp4"), replace=True)

    def begin_and_be_overtaken() -> None:
        with target.open_atomic() as begin:
            begin(b"half of")
            write(target, b"all of it")

    with pytest.raises(StorageFailed, match="another try") as failed:
        begin_and_be_overtaken()

    assert failed.value.retryable
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"video.mp4": b"all of it"}


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    target = Target(str(tmp_path / "video [1].mp4"))
    (tmp_path / ".video [1].mp4.87654321.part").touch()
    other = tmp_path / ".another.mp4.12345678.part"
    other.touch()

    with target.open_atomic() as write:
        write(b"all of it")

    assert sorted(tmp_path.iterdir()) == [other, tmp_path / "video [1].mp4"]
