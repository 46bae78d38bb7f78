"""A video, a voice or a picture is checked while it arrives."""

from __future__ import annotations

import gzip
import io
import random
import tracemalloc
import wave
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from PIL import Image

from magichour_provider.api.integrity import (
    AudioCheck,
    BadDownload,
    DownloadValidator,
    ImageCheck,
    IntegrityCheck,
    Mp4Check,
)
from magichour_provider.exceptions import DownloadFailed

CHECKS: dict[str, type[IntegrityCheck]] = {"video": Mp4Check, "audio": AudioCheck, "image": ImageCheck}


def box(box_type: bytes, content: bytes = b"") -> bytes:
    return (8 + len(content)).to_bytes(4) + box_type + content


FTYP, MOOV = box(b"ftyp", b"isom" + bytes(20)), box(b"moov", bytes(9))
START = FTYP + MOOV
MP4 = START + box(b"mdat", bytes(64))
LARGE = START + b"\0\0\0\1mdat" + (16 + 64).to_bytes(8) + bytes(64)
MOOV_LAST = FTYP + box(b"mdat", bytes(64)) + MOOV
OPEN_END = START + b"\0\0\0\0mdat" + bytes(64)
FRAGMENTS = START + 2 * (box(b"moof", bytes(8)) + box(b"mdat", bytes(64)))
VIDEOS = {
    "plain": MP4,
    "64-bit sizes": LARGE,
    "index last": MOOV_LAST,
    "fragments": FRAGMENTS,
}


def arrive(
    *chunks: bytes,
    status: int = 200,
    length: int | str | None = None,
    job_type: str = "video",
    **headers: str,
) -> bytes:
    """The file that is delivered; ``length`` is announced."""
    if length is not None:
        headers["content-length"] = str(length)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    validator = DownloadValidator(
        "job-1", status, headers, CHECKS[job_type], host="storage.example", job_type=job_type
    )
    whole = b"".join(piece for chunk in chunks for piece in validator.feed(chunk))
    validator.close()
    return whole


def split(content: bytes, size: int) -> Iterable[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


@pytest.mark.parametrize("size", [1, 3, 7, 8, 1000])
@pytest.mark.parametrize("length", ["announced", "missing", "not a number"])
@pytest.mark.parametrize("video", VIDEOS.values(), ids=VIDEOS)
def test_a_whole_video_comes_through_unchanged(video: bytes, length: str, size: int) -> None:
    headers = {"missing": None, "announced": len(video)}
    assert arrive(*split(video, size), length=headers.get(length, length)) == video


def test_a_video_with_an_open_end_needs_a_length() -> None:
    assert arrive(OPEN_END, length=len(OPEN_END)) == OPEN_END
    assert arrive(OPEN_END, transfer_encoding="chunked") == OPEN_END
    with pytest.raises(DownloadFailed, match="nothing says how long it is"):
        arrive(OPEN_END)


@pytest.mark.parametrize("end", [b"x", b"\0\0\0\4 more", b"\0\1\0\0what", bytes(9)])
def test_bytes_after_the_last_box_do_no_harm_when_the_length_is_announced(end: bytes) -> None:
    assert arrive(MP4 + end, length=len(MP4 + end)) == MP4 + end


@pytest.mark.parametrize(
    ("chunks", "length", "why"),
    [
        ((MP4[:50],), len(MP4), "only 50 of 121 bytes"),
        ((MP4, b"x"), len(MP4), "122 of 121"),
        ((), len(MP4), "only 0 of 121 bytes"),
        ((), None, "is empty"),
        ((), 0, "is empty"),
        # Nothing says how long it is, but the boxes do.
        ((MP4[:-1],), None, "its box mdat has no end"),
        ((LARGE[:-1],), None, "its box mdat has no end"),
        ((LARGE[:54],), None, "has no box mdat"),
        ((MP4, b"\0\0\0\1 more"), None, "nothing says how long"),
        ((MP4, b"\0\0\0\4 more"), None, "nothing says how long"),
    ],
)
def test_a_video_that_is_shorter_than_announced_is_refused(
    chunks: tuple[bytes, ...], length: int | None, why: str
) -> None:
    with pytest.raises(DownloadFailed, match=why) as failed:
        arrive(*chunks, length=length)
    assert "job-1" in str(failed.value)
    assert "stays at Magic Hour" in str(failed.value)
    assert (failed.value.job_id, failed.value.retryable, failed.value.charged) == ("job-1", True, "yes")


@pytest.mark.parametrize("framing", ["length", "chunked", "nothing"])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (FTYP[:7], "has no box ftyp"),
        (FTYP, "has no box moov"),
        (START, "has no box mdat"),
        (FTYP + box(b"mdat", bytes(64)), "has no box moov"),
        (FTYP + box(b"free", bytes(64)), "has no box moov"),
        (MOOV_LAST[:-1], "its box moov has no end"),
        (MP4[:-1], "its box mdat has no end"),
        (LARGE[:-1], "its box mdat has no end"),
        (START + box(b"moof", bytes(8)), "has no box mdat"),
        (FRAGMENTS + box(b"moof", bytes(8)), "its last fragment has no content"),
        (FRAGMENTS[:-70], "its box moof has no end|its last fragment has no content"),
    ],
)
def test_half_a_video_is_refused_even_if_its_length_is_the_announced_one(
    content: bytes, why: str, framing: str
) -> None:
    headers: dict[str, dict[str, Any]] = {
        "length": {"content_length": str(len(content))},
        "chunked": {"transfer_encoding": "chunked"},
        "nothing": {},
    }
    with pytest.raises(DownloadFailed, match=f"truncated: it.*({why})|{why}"):
        arrive(content, **headers[framing])


@pytest.mark.parametrize(
    ("status", "permanent", "why"),
    [
        (403, True, "storage.example answered HTTP 403: the signed URL has expired"),
        (404, True, "storage.example answered HTTP 404"),
        (206, False, "HTTP 206"),
        (429, False, "HTTP 429"),
        (503, False, "HTTP 503"),
    ],
)
def test_an_error_of_the_storage_host_names_it(status: int, permanent: bool, why: str) -> None:
    with pytest.raises(DownloadFailed, match=why) as failed:
        arrive(MP4, status=status)
    assert failed.value.status_code == status
    assert isinstance(failed.value, BadDownload) is permanent


# --- voices and pictures ---


def wav(seconds: float = 0.01) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(2 * round(16_000 * seconds)))
    return out.getvalue()


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((32, 32), 90).convert("RGB").save(out, kind)
    return out.getvalue()


WAV = wav()
MP3 = b"\xff\xfb\x90\x64" + random.Random(0).randbytes(200)
STREAMED_WAV = WAV[:4] + b"\xff\xff\xff\xff" + WAV[8:]
AIFF = b"FORM" + (52).to_bytes(4) + b"AIFFCOMM" + bytes(44)


@pytest.mark.parametrize(
    "sound", [WAV, STREAMED_WAV, AIFF, MP3, b"ID3" + bytes(60), b"what will be invented"], ids=range(6)
)
def test_a_whole_voice_of_any_format_comes_through_unchanged(sound: bytes) -> None:
    assert arrive(sound, length=len(sound), job_type="audio") == sound
    assert arrive(sound[:3], sound[3:], job_type="audio", transfer_encoding="chunked") == sound


def test_a_wav_says_itself_how_long_it_is() -> None:
    assert arrive(WAV, job_type="audio") == WAV


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_whole_picture_comes_through_unchanged(kind: str) -> None:
    content = picture(kind)
    assert arrive(*split(content, 5), job_type="image") == content


AVIF = box(b"ftyp", b"avif" + bytes(4)) + box(b"meta", bytes(20)) + box(b"mdat", bytes(64))


@pytest.mark.parametrize("content", [*VIDEOS.values(), AVIF], ids=[*VIDEOS, "avif"])
def test_an_image_job_may_make_a_video_or_an_avif(content: bytes) -> None:
    for size in (3, 1000):
        assert arrive(*split(content, size), length=len(content), job_type="image") == content
    assert arrive(content, job_type="image") == content, "the file says itself where it ends"


PAGES = [
    b"<html>not a file</html>",
    b"  <?xml version='1.0'?>",
    b'{"message": "no"}',
    b"\xef\xbb\xbf\n<!doctype html>",
]


@pytest.mark.parametrize("size", [3, 1000])
@pytest.mark.parametrize(
    ("job_type", "content"),
    [
        *((job_type, page) for job_type in CHECKS for page in PAGES),
        *(("audio", picture(kind)) for kind in ("PNG", "JPEG", "GIF", "WEBP")),
        *(("video", content) for content in (WAV, MP3, picture("PNG"))),
    ],
)
def test_a_file_of_another_type_is_refused_and_another_url_may_be_tried(
    job_type: str, content: bytes, size: int
) -> None:
    with pytest.raises(BadDownload, match=r"is not an MP4|is a page, not|is a picture, not audio"):
        arrive(*split(content, size), length=len(content), job_type=job_type)


@pytest.mark.parametrize(
    ("job_type", "content"),
    [
        ("audio", WAV[:-1]),
        ("audio", WAV[: len(WAV) // 2]),
        ("audio", AIFF[:-1]),
        ("audio", b""),
        *(("image", picture(kind)[:-1]) for kind in ("PNG", "JPEG", "GIF", "WEBP")),
        *(("image", picture(kind)[:99]) for kind in ("PNG", "JPEG", "GIF", "WEBP")),
        ("image", b""),
        ("image", MP4[:-1]),
    ],
)
def test_half_a_voice_or_picture_is_refused_even_if_its_length_is_the_announced_one(
    job_type: str, content: bytes
) -> None:
    with pytest.raises(DownloadFailed, match=r"is truncated|is empty") as failed:
        arrive(content, length=len(content), job_type=job_type)
    assert f"the {job_type} of job job-1" in str(failed.value)
    assert (failed.value.job_id, failed.value.retryable, failed.value.charged) == ("job-1", True, "yes")


def test_a_voice_of_unknown_length_is_refused() -> None:
    with pytest.raises(DownloadFailed, match="nothing says how long it is"):
        arrive(MP3, job_type="audio")


# --- encodings that were not asked for ---


def raw_deflate(content: bytes) -> bytes:
    encoder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return encoder.compress(content) + encoder.flush()


ENCODE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "X-GZip": (" X-GZip", gzip.compress),
    "two members": ("gzip", lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:])),
    "padded": ("gzip", lambda content: gzip.compress(content) + bytes(5)),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
    "name kept by the store": ("aws-chunked", bytes),
}


@pytest.mark.parametrize("size", [1, 10, 1000])
@pytest.mark.parametrize(("encoding", "encode"), ENCODE.values(), ids=ENCODE)
def test_an_encoding_that_was_not_asked_for_is_undone(
    encoding: str, encode: Callable[[bytes], bytes], size: int
) -> None:
    encoded = encode(MP4)
    assert arrive(*split(encoded, size), length=len(encoded), content_encoding=encoding) == MP4


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "what-will-be-invented"])
def test_an_encoding_that_cannot_be_undone_is_named(encoding: str) -> None:
    with pytest.raises(DownloadFailed, match=f"Content-Encoding '{encoding}'"):
        arrive(MP4, length=len(MP4), content_encoding=encoding)


@pytest.mark.parametrize("job_type", ["video", "audio"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda encoded: encoded[:-6], "is truncated"),
        (lambda encoded: encoded[:20] + bytes(20) + encoded[40:], "damaged"),
        (lambda _: MP4, "damaged"),
        (lambda _: b"", "is truncated"),
    ],
    ids=["cut", "damaged", "not encoded", "empty"],
)
def test_a_damaged_encoding_is_refused(
    encoding: str, spoil: Callable[[bytes], bytes], why: str, job_type: str
) -> None:
    encode: dict[str, Any] = {"gzip": gzip.compress, "deflate": zlib.compress}
    spoiled = spoil(encode[encoding](MP4 if job_type == "video" else MP3))
    with pytest.raises(DownloadFailed, match=why):
        arrive(spoiled, length=len(spoiled), content_encoding=encoding, job_type=job_type)


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("extra", [0, 1, 77])
def test_a_huge_file_in_a_small_body_needs_little_memory(
    encode: Callable[[bytes], bytes], extra: int
) -> None:
    content = START + box(b"mdat", bytes((32 << 20) + extra))
    encoded = encode(content)
    headers = {"content-encoding": "gzip" if encode is gzip.compress else "deflate"}
    validator = DownloadValidator("job-1", 200, headers, CHECKS["video"], host="storage.example")
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in validator.feed(encoded))
        validator.close()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert size == len(content)
