"""
The storage host: signed, expiring URLs that take uploads and give results, without any key.

It keeps its own manners: answers are S3's XML, a request that also carries an ``Authorization``
header is refused, and a PUT must say its length.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from aiohttp import web

from .rules import UPLOAD_LIMIT
from .state import timestamp

if TYPE_CHECKING:
    from pathlib import Path

    from .state import Clock

PREFIX = "/storage/"
URL_SECONDS = 24 * 3600
UPLOADS_KEPT_SECONDS = 7 * 24 * 3600
CHUNK = 1 << 18

MEDIA_TYPES = {".mp4": "video/mp4", ".wav": "audio/wav"}


@dataclass
class Upload:
    """A place for a file, and the file once it was PUT there."""

    path: Path
    kept_since: float
    digest: str | None = None
    size: int = 0


class StorageError(Exception):
    """An answer of the storage host other than 200."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class Result(web.FileResponse):
    """A finished file on its way out."""

    def __init__(self, source: Path) -> None:
        super().__init__(source, chunk_size=CHUNK)
        self.source = source
        self.content_type = MEDIA_TYPES[source.suffix]


class Storage:
    """Uploads on disk, results by their public path, and the signatures of both."""

    def __init__(self, folder: Path, clock: Clock, tier: str, limit: int) -> None:
        self.folder = folder
        self.clock = clock
        self.limit = limit
        self.largest = UPLOAD_LIMIT[tier]
        self.uploads: dict[str, Upload] = {}
        self.results: dict[str, Path] = {}
        # Uploads that a render is reading must outlive the limit.
        self.in_use: dict[str, int] = {}
        self._secret = secrets.token_bytes(32)

    def new_upload(self, extension: str) -> str:
        """Reserve a ``file_path``."""
        name = f"api-assets/{secrets.token_hex(6)}/{secrets.token_hex(8)}.{extension}"
        place = self.folder / f"{secrets.token_hex(12)}.{extension}"
        self.uploads[name] = Upload(place, self.clock.now())
        return name

    def uploaded(self, name: str) -> Upload | None:
        """The upload under a ``file_path``, if its file came and is still kept."""
        self._forget_old()
        upload = self.uploads.get(name)
        return upload if upload and upload.digest and not self._is_old(upload) else None

    def sign(self, base: str, method: str, name: str) -> tuple[str, str]:
        """A URL good for ``method`` on one file, and until when."""
        expires = self.clock.now() + URL_SECONDS
        query = f"X-Amz-Expires={int(expires * 1000)}&X-Amz-Nonce={secrets.token_hex(4)}"
        signature = self._signature(method, name, query)
        url = f"{base}{PREFIX}{name}?{query}&X-Amz-Signature={signature}"
        return url, timestamp(expires)

    def authorize(self, request: web.Request) -> str:
        """The file a request is allowed to touch."""
        if "Authorization" in request.headers:
            raise StorageError(
                400,
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Signature query string parameter"
                " or the Authorization header should be specified",
            )
        name = request.match_info["name"]
        query, _, signature = request.query_string.partition("&X-Amz-Signature=")
        if not signature:
            raise StorageError(403, "AccessDenied", "Access Denied")
        method = "PUT" if request.method == "PUT" else "GET"
        if not hmac.compare_digest(self._signature(method, name, query).encode(), signature.encode()):
            raise StorageError(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            )
        if self.clock.now() * 1000 > int(request.query["X-Amz-Expires"]):
            raise StorageError(403, "AccessDenied", "Request has expired")
        return name

    async def put(self, request: web.Request) -> web.StreamResponse:
        """Take a file. It is there once all of it came, and not before."""
        name = self.authorize(request)
        upload = self.uploads.get(name)
        if upload is None:
            raise StorageError(404, "NoSuchKey", "The specified key does not exist.")
        if request.content_length is None:
            raise StorageError(
                411, "MissingContentLength", "You must provide the Content-Length HTTP header."
            )
        if request.content_length > self.largest:
            raise StorageError(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        arriving = upload.path.with_suffix(f".{secrets.token_hex(4)}")
        sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        size = 0
        try:
            # Off the event loop: a large upload must not delay the looks of others.
            file = await asyncio.to_thread(arriving.open, "wb")
            try:
                async for chunk in request.content.iter_chunked(CHUNK):
                    await asyncio.to_thread(file.write, chunk)
                    sha.update(chunk)
                    md5.update(chunk)
                    size += len(chunk)
            finally:
                await asyncio.to_thread(file.close)
            await asyncio.to_thread(arriving.replace, upload.path)
        except BaseException:
            discard(arriving)
            raise
        upload.digest, upload.size = sha.hexdigest(), size
        # Its days are counted from now, which makes it the newest.
        upload.kept_since = self.clock.now()
        self.uploads.pop(name, None)
        self.uploads[name] = upload
        self._make_room()
        return web.Response(headers={"ETag": f'"{md5.hexdigest()}"'})

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Give a result, whole or in ranges."""
        path = self.results.get(self.authorize(request))
        if path is None:
            raise StorageError(404, "NoSuchKey", "The specified key does not exist.")
        return Result(path)

    async def add(self, extension: str, content: bytes) -> str:
        """An upload without the signed URL, for tests."""
        name = self.new_upload(extension)
        upload = self.uploads[name]
        await asyncio.to_thread(upload.path.write_bytes, content)
        upload.digest, upload.size = hashlib.sha256(content).hexdigest(), len(content)
        self._make_room()
        return name

    def _signature(self, method: str, name: str, query: str) -> str:
        signed = f"{method}\n{name}\n{query}".encode()
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()

    def _is_old(self, upload: Upload) -> bool:
        return upload.kept_since <= self.clock.now() - UPLOADS_KEPT_SECONDS

    def _forget_old(self) -> None:
        old = itertools.takewhile(lambda item: self._is_old(item[1]), self.uploads.items())
        for name in [name for name, _ in old if not self.in_use.get(name)]:
            self._forget(name)

    def _make_room(self) -> None:
        total = sum(upload.size for upload in self.uploads.values())
        for name, upload in list(self.uploads.items()):
            if total <= self.limit:
                return
            if not self.in_use.get(name):
                total -= upload.size
                self._forget(name)

    def _forget(self, name: str) -> None:
        discard(self.uploads.pop(name).path)


def discard(path: Path) -> None:
    """Delete a file, off the event loop; nothing waits for it, since no name is used twice."""
    asyncio.get_running_loop().run_in_executor(None, partial(path.unlink, missing_ok=True))


def base_of(request: web.Request) -> str:
    """The address this client knows the emulator by: signed URLs must work from where it is."""
    return f"{request.scheme}://{request.host}"


def xml(refused: StorageError) -> web.Response:
    """The storage host's way to say no."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{refused.code}</Code><Message>{escape(refused.message)}</Message>"
        f"<RequestId>{secrets.token_hex(8).upper()}</RequestId>"
        f"<ServerTime>{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}</ServerTime></Error>"
    )
    return web.Response(status=refused.status, text=body, content_type="application/xml")
