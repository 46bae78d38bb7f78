"""Is a file a photo or audio at all? Its first bytes show that, before anything is paid."""

from __future__ import annotations

import codecs
import re

from magichour_provider.api.inputs import MediaType
from magichour_provider.exceptions import InvalidInput
from magichour_provider.files.storage import Source

HEAD_BYTES = 4096

# How files begin, and as which media types they may be sent. Some containers can hold audio or a video.
SIGNATURES: tuple[tuple[tuple[MediaType, ...], str, bytes], ...] = (
    ((), "a web page or another XML file", rb"(?i)\s*<[!?a-z]"),
    ((), "a PDF file", rb"%PDF-"),
    ((), "a ZIP archive", rb"PK(\x03\x04|\x05\x06)"),
    ((), "a gzip file", rb"\x1f\x8b\x08"),
    (("image",), "a JPEG file", rb"\xff\xd8\xff"),
    (("image",), "a PNG file", rb"\x89PNG\r\n\x1a\n"),
    (("image", "gif"), "a GIF file", rb"GIF8[79]a"),
    (("image", "gif"), "a WebP file", rb"RIFF.{4}WEBP"),
    (("image",), "a TIFF file", rb"II\*\0|MM\0\*"),
    (("image",), "a BMP file", rb"BM.{4}\0{4}"),
    (("image",), "a HEIF or AVIF file", rb".{4}ftyp(hei|hev|mif|msf|avi[fs])"),
    (("image",), "a JPEG 2000 file", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    (("audio",), "an MP3 or AAC file", rb"ID3|\xff[\xe2-\xfd]"),
    (("audio",), "a WAV file", rb"(RIFF|RF64).{4}WAVE"),
    (("audio",), "a FLAC file", rb"fLaC"),
    (("audio",), "an Ogg file", rb"OggS"),
    (("audio", "video"), "an MP4 or M4A file", rb".{4}ftyp(M4|mp4|iso|qt|3g|dash|avc1)"),
    (("audio", "video"), "a WebM or Matroska file", rb"\x1a\x45\xdf\xa3"),
    (("audio",), "an AIFF file", rb"FORM.{4}AIF[FC]"),
    (("audio",), "an AMR file", rb"#!AMR"),
)


def check_media_type(source: Source) -> None:
    """
    Refuse a file whose first bytes show that it has another media type. If the bytes are unknown, or the file
    is damaged, the vendor decides.

    :raises InvalidInput: the file has another media type; nothing was sent.
    :raises StorageFailed: the file could not be read; retryable; nothing was sent.
    """
    with source.opened() as file:
        head = file.read(HEAD_BYTES)
    media_types, what = _begins_like(head)
    if what and source.media_type not in media_types:
        name = {"image": "a photo", "audio": "audio", "video": "a video", "gif": "a GIF"}[source.media_type]
        raise InvalidInput.of(
            source.field,
            source.uri,
            f"begins like {what}, so it is not {name}; check the path and the file",
        )


def _begins_like(head: bytes) -> tuple[tuple[MediaType, ...], str | None]:
    for media_types, what, pattern in SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return media_types, what
    return (), "a text file" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Can it be decoded as text, without control characters?"""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    return not re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]", text)
