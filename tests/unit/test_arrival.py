"""A video, or a voice, is checked while it comes in."""

from __future__ import annotations

import pytest

from magichour_provider.api.integrity import DownloadValidator
from magichour_provider.api.wire import JobType
from magichour_provider.exceptions import DownloadFailed


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


START = box(b"ftyp", b"isom" + bytes(20)) + box(b"moov", b"")
MP4 = START + box(b"mdat", bytes(64))
LARGE = START + b"\0\0\0\1mdat" + (16 + 64).to_bytes(8) + bytes(64)
MOOV_LAST = box(b"ftyp", b"isom" + bytes(20)) + box(b"mdat", bytes(64)) + box(b"moov", bytes(9))
OPEN_END = START + b"\0\0\0\0mdat" + bytes(64)


def arrive(
    *chunks: bytes, status: int = 200, length: str | None = None, kind: JobType = "video", **headers: str
) -> bytes:
    if length is not None:
        headers["content-length"] = length
    validator = DownloadValidator("job-1", status, headers, kind)
    whole = b"".join(validator.feed(chunk) for chunk in chunks)
    validator.close()
    return whole


@pytest.mark.parametrize(
    "chunks",
    [(MP4,), (MP4[:3], MP4[3:]), (MP4[:7], MP4[7:]), tuple(MP4[i : i + 1] for i in range(len(MP4)))],
    ids=["at once", "3 first", "7 first", "byte by byte"],
)
@pytest.mark.parametrize("length", [None, str(len(MP4)), "not a number"])
def test_a_whole_video_comes_through_unchanged(chunks: tuple[bytes, ...], length: str | None) -> None:
    assert arrive(*chunks, length=length) == MP4


@pytest.mark.parametrize("video", [MP4, LARGE, OPEN_END], ids=["plain", "64-bit sizes", "open end"])
def test_without_a_length_a_video_is_whole_when_its_last_box_is(video: bytes) -> None:
    assert arrive(*(video[i : i + 5] for i in range(0, len(video), 5))) == video


@pytest.mark.parametrize("end", [b"x", b"\0\0\0\4 more", b"\0\1\0\0what", bytes(9)])
def test_with_a_length_what_follows_the_video_does_no_harm(end: bytes) -> None:
    assert arrive(MP4 + end, length=str(len(MP4 + end))) == MP4 + end


@pytest.mark.parametrize(
    ("chunks", "status", "length", "why"),
    [
        ((MP4,), 403, None, "the signed URL has expired"),
        ((MP4,), 404, None, "HTTP 404"),
        ((MP4,), 206, None, "HTTP 206"),
        ((MP4,), 503, None, "HTTP 503"),
        ((b"<html>not a video</html>",), 200, None, "not an MP4"),
        ((b"<ht", b"ml>not a video</html>"), 200, None, "not an MP4"),
        ((MP4[:50],), 200, str(len(MP4)), "only 50 of 112 bytes"),
        ((MP4, b"x"), 200, str(len(MP4)), "113 of 112"),
        ((), 200, str(len(MP4)), "only 0 of 112 bytes"),
        ((), 200, None, "only 0 of its bytes"),
        ((MP4[:7],), 200, "7", "only 7 of"),
        # What came in between has cut it and counted what was left: the boxes know better.
        ((MP4[:-1],), 200, "111", "only 111 of its bytes"),
        ((LARGE[:-1],), 200, "119", "only 119 of its bytes"),
        ((MOOV_LAST[:-1],), 200, str(len(MOOV_LAST) - 1), "of its bytes"),
        # Nothing says how long it is, but the boxes do.
        ((MP4[:-1],), 200, None, "only 111 of its bytes"),
        ((LARGE[:-1],), 200, None, "only 119 of its bytes"),
        ((LARGE[:45],), 200, None, "only 45 of its bytes"),
        ((START,), 200, None, "only 40 of its bytes"),
        ((MP4, b"\0\0\0\1 more"), 200, None, "only 121 of its bytes"),
        ((MP4, b"\0\0\0\4 more"), 200, None, "not an MP4"),
    ],
)
def test_anything_else_is_refused_and_the_error_says_that_the_video_is_safe(
    chunks: tuple[bytes, ...], status: int, length: str | None, why: str
) -> None:
    with pytest.raises(DownloadFailed, match=why) as failed:
        arrive(*chunks, status=status, length=length)
    assert "job-1" in str(failed.value)
    assert "stays at Magic Hour" in str(failed.value)
    assert (failed.value.job_id, failed.value.retryable, failed.value.charged) == ("job-1", True, "yes")


WAV = b"RIFF\x2c\0\0\0WAVEfmt " + bytes(36)
MP3 = b"\xff\xfb\x90\x64" + bytes(60)


@pytest.mark.parametrize("sound", [WAV, MP3, b"ID3" + bytes(60), b"what will be invented"])
def test_a_whole_voice_of_any_kind_comes_through_unchanged(sound: bytes) -> None:
    assert arrive(sound, length=str(len(sound)), kind="audio") == sound
    assert arrive(sound[:3], sound[3:], kind="audio", **{"transfer-encoding": "chunked"}) == sound


@pytest.mark.parametrize(
    ("chunks", "status", "length", "why"),
    [
        ((WAV,), 403, "52", "the signed URL has expired"),
        ((b"<html>not a voice</html>",), 200, "24", "not a sound"),
        ((b"  <?xml version='1.0'?>",), 200, "23", "not a sound"),
        ((b'{"message": "no"}',), 200, "17", "not a sound"),
        ((WAV[:-1],), 200, str(len(WAV)), f"only {len(WAV) - 1} of {len(WAV)} bytes"),
        ((), 200, "0", "only 0 of"),
        ((WAV,), 200, None, "did not say how long"),
    ],
)
def test_a_voice_that_is_none_or_not_whole_is_refused(
    chunks: tuple[bytes, ...], status: int, length: str | None, why: str
) -> None:
    with pytest.raises(DownloadFailed, match=why) as failed:
        arrive(*chunks, status=status, length=length, kind="audio")
    assert "the audio of job job-1" in str(failed.value)
    assert (failed.value.job_id, failed.value.retryable, failed.value.charged) == ("job-1", True, "yes")
