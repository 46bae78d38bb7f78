"""A video is checked while it comes in."""

from __future__ import annotations

import pytest

from magichour_provider.exceptions import DownloadFailed
from magichour_provider.flows import Arrival


def box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4) + kind + content


START = box(b"ftyp", b"isom" + bytes(20)) + box(b"moov", b"")
MP4 = START + box(b"mdat", bytes(64))
LARGE = START + b"\0\0\0\1mdat" + (16 + 64).to_bytes(8) + bytes(64)
OPEN_END = START + b"\0\0\0\0mdat" + bytes(64)


def arrive(*chunks: bytes, status: int = 200, length: str | None = None) -> bytes:
    arrival = Arrival("job-1", status, {} if length is None else {"content-length": length})
    whole = b"".join(arrival.check(chunk) for chunk in chunks)
    arrival.finish()
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
