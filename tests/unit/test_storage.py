"""Files at our end: found, checked, read and written whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook
from airflow.sdk import ObjectStoragePath
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from magichour_provider.exceptions import InvalidInput, MagicHourError, StorageFailed, TargetExists
from magichour_provider.files.places import uri_of
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


def test_what_is_not_a_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "me.png")
    with pytest.raises(InvalidInput, match=r"me\.png': is not a regular file"):
        find(tmp_path / "me.png")


# --- how a path is written ---

ODD_NAMES = [
    "a b",
    "10:30",
    "http:x",
    "100%",
    "a%20b",
    "a#b",
    "a?b",
    "a[1]*",
    "{x}",
    "a\\b",
    "~x",
    "ä 日",
    "a@b",
]


@pytest.mark.parametrize("write_path", [str, lambda path: f"file://{path}", Path.as_uri])
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_local_name_means_the_same_in_every_way_of_writing_it(
    tmp_path: Path, name: str, write_path: Callable[[Path], str]
) -> None:
    photo = tmp_path / f"{name}.png"
    photo.write_bytes(b"photo")
    assert b"".join(find(write_path(photo)).chunks()) == b"photo"
    photo.unlink()

    target = Target(uri_of(write_path(tmp_path / name / f"{name}.mp4")))
    target.check()
    write(target, b"video")
    # Airflow opens what the task returns.
    assert ObjectStoragePath(target.uri).read_bytes() == b"video"
    if write_path is Path.as_uri or "%20" not in name:
        assert files(tmp_path) == {f"{name}.mp4": b"video"}


@pytest.mark.parametrize("end", ["?", "#"])
def test_no_end_of_a_local_name_is_dropped(tmp_path: Path, end: str) -> None:
    write(Target(f"{tmp_path}/video{end}"), b"video")
    assert files(tmp_path) == {f"video{end}": b"video"}


def test_a_file_with_a_real_percent_sign_is_found_by_the_uri_that_airflow_lists(tmp_path: Path) -> None:
    (tmp_path / "a%20b.png").write_bytes(b"photo")
    (tmp_path / "a b.png").write_bytes(b"another")
    (listed,) = (path for path in ObjectStoragePath(f"file://{tmp_path}").iterdir() if "%" in path.name)
    assert b"".join(find(str(listed)).chunks()) == b"photo"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3:/bucket/me.png", "is neither a URI"),  # str(Path("s3://bucket/me.png"))
        ("s3:bucket/me.png", "is neither a URI"),
        ("gs:/bucket/me.png", "is neither a URI"),
        ("file:me.png", "is neither a URI"),
        ("file:/data/me.png", "is neither a URI"),
        ("C:\\data\\me.png", "is neither a URI"),
        ("file:///C:/data/me.png", "is not a local file's URI"),
        ("file://C:/data/me.png", "is not a local file's URI"),
        ("file://host/data/me.png", "is not a local file's URI"),
        ("file://me.png", "is not a local file's URI"),
        ("file://~/me.png", "is not a local file's URI"),
        ("s3://", "names no bucket"),
        ("s3:///me.png", "names no bucket"),
        ("/data/\n  me.png", "contains a line break"),
        ("s3://bucket/a\tb.png", "contains a line break or another control character"),
        ("/data/me\0.png", "control character"),
    ],
)
def test_a_path_that_is_written_wrong_is_refused_in_plain_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (lambda: find(uri), Target(uri).check):
        with pytest.raises(InvalidInput, match=said):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "secret", "shown"),
    [
        ("s3://AKIA:s3cr3t@bucket/me.mp4", "s3cr3t", "s3://***@bucket/me.mp4"),
        (
            "s3://AKIA:wJ/alr/s3cr3t@bucket/me.mp4",
            "alr/s3cr3t",
            "s3://***@bucket/me.mp4': contains a password",
        ),
        ("s3://AKIA:s3#cr3t@bucket/me.mp4", "cr3t", "s3://***@bucket/me.mp4': contains a password"),
        ("s3://AKIA:/s3cr3t@bucket/me.mp4", "cr3t", "s3://***@bucket/me.mp4': contains a password"),
        ("s3://AKIA:s3'cr3t@bucket/me.mp4", "cr3t", "s3://***@bucket/me.mp4': contains a password"),
        ("s3:/AKIA:s3cr3t@bucket/me.mp4", "s3cr3t", "s3:/***@bucket/me.mp4"),
        (
            "https://bucket.example/me.mp4?X-Amz-Signature=s3cr3t&x=1",
            "s3cr3t",
            "https://bucket.example/me.mp4?…",
        ),
        ("no://account/me.mp4?sv=2026&sig=s3cr3t", "s3cr3t", "sv=2026&sig=***"),
        ("no://account/me.mp4?token=s3cr3t", "s3cr3t", "token=***"),
        ("no://account/me.mp4?aws_secret_access_key=s3cr3t", "s3cr3t", "aws_secret_access_key=***"),
    ],
)
def test_no_message_shows_a_secret_that_is_in_a_path(uri: str, secret: str, shown: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Target(uri).check()
    assert shown in str(refused.value)
    assert secret not in str(refused.value)


def test_a_port_and_an_at_sign_in_a_path_are_no_password() -> None:
    with pytest.raises(
        InvalidInput, match=r"hdfs://namenode:8020/ada@home/me\.mp4': (?!contains a password)"
    ):
        Target("hdfs://namenode:8020/ada@home/me.mp4").check()


def test_no_message_shows_a_long_path_whole(tmp_path: Path) -> None:
    for use in (lambda: find(f"/{'a' * 300_000}.png"), Target(f"{tmp_path}/{'a/' * 150_000}").check):
        with pytest.raises(InvalidInput, match="File name too long") as refused:
            use()
        assert len(str(refused.value)) < 500


def test_what_a_store_says_is_shown_in_one_short_line(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Talkative(MemoryFileSystem):
        cachable = False

        def info(self, path: str, **_: Any) -> Any:
            raise OSError(f"<Error>\n\x1b[31m{'long ' * 1000}")

    monkeypatch.setenv("AIRFLOW_CONN_AWS", "aws://")
    bucket(lambda _: Talkative())
    with pytest.raises(StorageFailed) as failed:
        find("memory://aws@a/me.png")
    assert len(str(failed.value)) < 1000
    assert str(failed.value).isprintable()


def test_of_a_local_file_the_host_is_named() -> None:
    with pytest.raises(InvalidInput) as refused:
        find("/no/me.png")
    assert f"on host '{socket.gethostname()}'" in str(refused.value)
    assert "all workers share" in str(refused.value)
    with pytest.raises(InvalidInput) as refused:
        find("no://a/me.png")
    assert socket.gethostname() not in str(refused.value)


@pytest.mark.parametrize(
    ("output_path", "uri"),
    [
        ("/data/videos/", "/data/videos/"),
        ("/data/videos/me", "/data/videos/me"),
        (Path("/data/videos/"), "/data/videos/"),
        (Path("/data/videos/me.mp4"), "/data/videos/me.mp4"),
        (Path("voices/me.WAV"), "voices/me.WAV"),
        (Path(), "./"),
        (ObjectStoragePath("file:///data/videos/"), "file:///data/videos/"),
        (ObjectStoragePath("file:///data/me.mp4"), "file:///data/me.mp4"),
    ],
)
def test_a_path_object_is_a_file_if_it_has_a_videos_or_a_voices_extension_and_else_a_folder(
    output_path: object, uri: str
) -> None:
    assert uri_of(output_path) == uri


@pytest.mark.parametrize("output_path", [Path("/data/2026.11.26/"), Path("/data/v1.2"), Path("me.mov")])
def test_a_path_object_that_may_be_a_file_or_a_folder_is_refused(output_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"may be a file or a folder: write it as text"):
        uri_of(output_path)


@pytest.mark.parametrize("output_path", [None, 7, True, ["a/"], {"a": "b"}])
def test_what_is_no_path_at_all_is_refused(output_path: object) -> None:
    with pytest.raises(InvalidInput, match=r"^output_path=.*: is not a path"):
        uri_of(output_path)


# --- where the video goes ---


def test_a_name_that_ends_in_a_slash_is_a_folder_for_the_jobs_file(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/videos/")
    target.check()
    write(target.for_job("job-1"), b"video")
    assert files(tmp_path / "videos") == {"job-1.mp4": b"video"}


def test_any_other_name_is_the_file(tmp_path: Path) -> None:
    write(Target(f"{tmp_path}/a/b/me.mp4").for_job("job-1"), b"vid", b"eo")
    assert files(tmp_path) == {"me.mp4": b"video"}


@pytest.mark.parametrize("job_id", ["cm53798542019cde63ed8240f", "a", "A-b_1", "x" * 64])
def test_a_plain_job_id_is_the_name_of_its_file(job_id: str) -> None:
    assert Target("videos/").for_job(job_id).uri == f"videos/{job_id}.mp4"


HOSTILE_IDS = [
    *("../../escaped", "/etc/passwd", "a/b", "a\\b", "..", ".", "", ".hidden", "-rf", "~root", "a.mp4"),
    *("a b", "a\nb", "a\0b", "a?b", "a#b", "a%2Fb", "s3://bucket/key", "con", "NUL", "com1"),
    *("ä", "a\u0308", "\ud800", "x" * 65, "x" * 300, "x" * 299 + "y", "日" * 300, "日" * 299 + "本"),
]


def test_a_job_id_that_is_unsafe_in_a_file_name_stays_in_the_folder_under_a_short_name_of_its_own(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "videos"
    for job_id in HOSTILE_IDS:
        target = Target(f"{folder}/").for_job(job_id)
        target.check()
        write(target, job_id.encode(errors="surrogatepass"))

    made = files(tmp_path)
    assert len(list(folder.iterdir())) == len(made) == len(HOSTILE_IDS)  # none elsewhere, none twice
    for name in made:
        assert name.endswith(".mp4")
        assert len(name.encode()) <= 80
        assert name.isprintable()
        assert name[0] not in ".-~"


@pytest.mark.parametrize("extension", ["../../escaped", "", "MP4", "x" * 300, "mp4\0", "sh"])
def test_an_extension_that_no_job_makes_is_not_taken_over(extension: str) -> None:
    assert Target("videos/").for_job("job-1", extension).uri == "videos/job-1.bin"


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


@pytest.mark.parametrize("place", [".", "..", "new/.", "new/.."])
def test_what_can_only_be_a_folder_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=rf"^output_path='{place}': is a folder; let it end in '/'"):
        Target(place).check()


def test_a_target_under_a_file_is_known_before_anything_is_paid(tmp_path: Path) -> None:
    (tmp_path / "me").write_bytes(b"a file")
    with pytest.raises(InvalidInput, match=r"^output_path='.*/me/video\.mp4': Not a directory"):
        Target(f"{tmp_path}/me/video.mp4").check()


@pytest.mark.parametrize("place", ["me.sh/", "me.sh/new/", "nowhere/", "nowhere/new/me.mp4"])
def test_a_folder_that_is_none_is_known_before_anything_is_paid(tmp_path: Path, place: str) -> None:
    (tmp_path / "me.sh").write_bytes(b"a file")
    (tmp_path / "me.sh").chmod(0o755)
    (tmp_path / "nowhere").symlink_to(tmp_path / "not mounted")
    with pytest.raises(InvalidInput, match=r"^output_path=.*: (.* not a folder|Not a directory)"):
        Target(f"{tmp_path}/{place}").check()


def test_the_longest_name_that_a_file_can_have_is_written(tmp_path: Path) -> None:
    name = f"{'日' * 83}ab.mp4"
    assert len(name.encode()) == 255
    target = Target(f"{tmp_path}/{name}")
    target.check()
    write(target, b"video")
    assert files(tmp_path) == {name: b"video"}


@pytest.mark.parametrize("name", ["{}.mp4", "{}/", "{}/me.mp4", "new/{}.mp4", "new/{}/", "{}/new/"])
def test_a_name_that_is_too_long_is_known_before_anything_is_paid(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"too long|at most 255 bytes"):
        Target(f"{tmp_path}/{name.format('日' * 85 + 'a')}").check()


@pytest.mark.parametrize("place", ["{}/new/er/", "{}/new/er/me.mp4", "{}/me.mp4", "file://{}/new/me.mp4"])
@pytest.mark.parametrize(
    ("number", "error_cls"),
    [
        (errno.EACCES, InvalidInput),
        (errno.EROFS, InvalidInput),
        (errno.ENOSPC, StorageFailed),
        (errno.EDQUOT, StorageFailed),
    ],
)
def test_a_folder_that_takes_no_file_is_known_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, number: int, error_cls: type[MagicHourError]
) -> None:
    # Not by chmod: the tests may be root's, who may write everywhere.
    def refuse(_: object, path: str, *__: object, **___: object) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(LocalFileSystem, "open", refuse)
    with pytest.raises(error_cls, match=os.strerror(number)) as refused:
        Target(place.format(tmp_path)).check()
    assert refused.value.retryable == (error_cls is StorageFailed)
    assert refused.value.charged == "no"


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """As a disk that is full, or a quota: a write fails in the middle of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_while_it_is_tried_keeps_nothing(tmp_path: Path) -> None:
    with no_file_above(1000), pytest.raises(StorageFailed, match=r"File too large.*; a retry may help"):
        Target(f"{tmp_path}/me.mp4").check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["new/er/", "new/er/me.mp4", "me.mp4", ""])
def test_what_is_tried_leaves_nothing(tmp_path: Path, place: str) -> None:
    Target(f"{tmp_path}/{place}").check()
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_regular_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "me.mp4")
    with pytest.raises(InvalidInput, match=r"me\.mp4': is not a regular file"):
        Target(f"{tmp_path}/me.mp4", replace=True).check()


# --- what happens while the video is written ---


def test_a_disk_that_is_full_in_the_middle_keeps_nothing(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/me.mp4")
    with (
        no_file_above(CHUNK_BYTES),
        pytest.raises(StorageFailed, match=r"File too large.*; a retry may help"),
    ):
        write(target, *[b"." * CHUNK_BYTES] * 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("replace", [False, True])
def test_a_target_that_became_a_folder_is_not_written_into(tmp_path: Path, replace: bool) -> None:
    def deliver() -> None:
        with Target(f"{tmp_path}/me.mp4", replace).open_atomic() as take:
            take(b"video")
            (tmp_path / "me.mp4").mkdir()

    with pytest.raises(InvalidInput, match="is a folder"):
        deliver()
    assert files(tmp_path) == {}


def test_a_folder_that_is_deleted_while_the_video_comes_costs_no_more_than_a_retry(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/videos/me.mp4")

    def deliver() -> None:
        with target.open_atomic() as take:
            take(b"video")
            for file in (tmp_path / "videos").iterdir():
                file.unlink()
            (tmp_path / "videos").rmdir()

    with pytest.raises(StorageFailed, match=r"was deleted .* with its folder; a retry may help") as failed:
        deliver()
    assert failed.value.retryable
    write(target, b"video")
    assert files(tmp_path) == {"me.mp4": b"video"}


# --- two tasks, one file ---

HOUR = 3600.0


def test_of_two_tasks_that_make_the_same_file_one_is_refused_before_it_pays(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/new/me.mp4")
    target.reserve("dag.first in run 1", HOUR)
    with pytest.raises(
        TargetExists, match=r"dag\.first in run 1 makes this file, and has reserved it until 20"
    ):
        target.reserve("dag.second in run 1", HOUR)
    target.reserve("dag.first in run 1", HOUR)  # its own next try

    write(target, b"video")
    assert files(tmp_path) == {"me.mp4": b"video"}
    with pytest.raises(TargetExists, match="exists already"):
        target.reserve("dag.second in run 1", HOUR)
    assert files(tmp_path) == {"me.mp4": b"video"}


def test_of_many_tasks_at_once_one_reserves_the_file(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/new/me.mp4")

    def reserve(number: int) -> bool:
        with suppress(TargetExists):
            target.reserve(f"task {number}", HOUR)
            return True
        return False

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(reserve, range(64))) == 1


def test_a_reservation_that_is_given_up_is_free_for_another_task(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/me.mp4")
    target.reserve("first", HOUR)
    target.release("second")  # not its own
    with pytest.raises(TargetExists):
        target.reserve("second", HOUR)
    target.release("first")
    assert list(tmp_path.iterdir()) == []
    target.reserve("second", HOUR)


def test_a_reservation_that_a_full_disk_does_not_take_is_none(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/me.mp4")
    with no_file_above(2), pytest.raises(StorageFailed, match="File too large"):
        target.reserve("first", HOUR)
    assert list(tmp_path.iterdir()) == []


def test_a_reservation_holds_as_long_as_its_own_task_waits_and_no_longer(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/me.mp4")
    target.reserve("first", -1.0)
    target.reserve("second", HOUR)
    with pytest.raises(TargetExists, match="second makes this file"):
        target.reserve("first", 1.0)


def test_a_reservation_that_cannot_be_read_holds(tmp_path: Path) -> None:
    target = Target(f"{tmp_path}/me.mp4")
    target.reserve("first", HOUR)
    (reservation,) = tmp_path.iterdir()
    reservation.write_bytes(b"\xff")
    with pytest.raises(TargetExists, match="makes this file"):
        target.reserve("second", HOUR)


@pytest.mark.parametrize(("place", "replace"), [("videos/", False), ("me.mp4", True)])
def test_what_several_tasks_may_write_is_not_reserved(tmp_path: Path, place: str, replace: bool) -> None:
    Target(f"{tmp_path}/{place}", replace).reserve("first", HOUR)
    Target(f"{tmp_path}/{place}", replace).reserve("second", HOUR)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_reserved_in_an_object_store(bucket: Any) -> None:
    storage = MemoryFileSystem()
    bucket(lambda _: storage)
    target = Target("memory://quiet/me.mp4")
    target.reserve("first", HOUR)
    target.release("first")
    assert storage.find("/quiet") == []


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
    Target("memory://videos/new/er/job-2.mp4").check()
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

    def split_path(self, path: str) -> tuple[str, str, None]:
        bucket, _, key = path.lstrip("/").partition("/")
        return bucket, key, None

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


def test_what_a_killed_process_left_is_deleted_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nothing is tidied up."""

    def be_killed(name: str) -> None:
        with monkeypatch.context() as patch, Target(f"{tmp_path}/{name}").open_atomic() as take:
            take(b"half of it")
            patch.setattr(LocalFileSystem, "rm_file", lambda *_: None)
            raise Killed

    for name in ("video [1].mp4", "another.mp4"):
        with pytest.raises(Killed):
            be_killed(name)
    assert len(list(tmp_path.iterdir())) == 2

    write(Target(f"{tmp_path}/video [1].mp4"), b"all of it")

    left = files(tmp_path)
    assert left.pop("video [1].mp4") == b"all of it"
    assert list(left.values()) == [b"half of it"]  # another file's, which may be under way
