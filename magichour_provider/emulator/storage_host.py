"""
The storage host: signed URLs for uploads and results.

It behaves like S3, not like the API. Errors are XML, the URLs expire, a request with an ``Authorization``
header is refused, and a PUT needs a ``Content-Length``.
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
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

from .exceptions import StorageError
from .models import timestamp
from .validation import MAX_UPLOAD_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from .models import Clock

PREFIX = "/storage/"
URL_LIFETIME_SECONDS = 24 * 3600
UPLOAD_LIFETIME_SECONDS = 7 * 24 * 3600
CHUNK_BYTES = 1 << 18

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".wav": "audio/wav",
    ".png": "image/png",
    ".gif": "image/gif",
}


@dataclass
class Upload:
    """The file of a ``file_path``. ``digest`` is None until the client has uploaded it."""

    path: Path
    stored_at: float
    digest: str | None = None
    size: int = 0


class ResultResponse(web.FileResponse):
    """A response that sends a rendered file."""

    def __init__(self, source: Path) -> None:
        super().__init__(source, chunk_size=CHUNK_BYTES)
        self.source = source
        self.content_type = MEDIA_TYPES[source.suffix]


class StorageHost:
    """Stores uploads, finds results by their path, and signs the URLs of both."""

    def __init__(self, folder: Path, clock: Clock, tier: str, max_bytes: int) -> None:
        self.folder = folder
        self.clock = clock
        self.max_bytes = max_bytes
        self.max_upload_bytes = MAX_UPLOAD_BYTES[tier]
        self.uploads: dict[str, Upload] = {}
        self.results: dict[str, Path] = {}
        # The number of renders that read an upload. The upload is not deleted until it is 0.
        self.readers: dict[str, int] = {}
        self._secret = secrets.token_bytes(32)

    def new_upload(self, extension: str) -> str:
        """Reserve a ``file_path``."""
        name = f"api-assets/{secrets.token_hex(6)}/{secrets.token_hex(8)}.{extension}"
        path = self.folder / f"{secrets.token_hex(12)}.{extension}"
        self.uploads[name] = Upload(path, self.clock.now())
        return name

    def find_upload(self, name: str) -> Upload | None:
        """Return the upload of a ``file_path``, if its file has arrived and has not expired."""
        self._delete_expired()
        upload = self.uploads.get(name)
        return upload if upload and upload.digest and not self._is_expired(upload) else None

    def sign(self, base_url: str, method: str, name: str) -> tuple[str, str]:
        """Return a URL for one method on one file, and the time at which it expires."""
        expires = self.clock.now() + URL_LIFETIME_SECONDS
        query = f"X-Amz-Expires={int(expires * 1000)}&X-Amz-Nonce={secrets.token_hex(4)}"
        signature = self._signature(method, name, query)
        url = f"{base_url}{PREFIX}{quote(name)}?{query}&X-Amz-Signature={signature}"
        return url, timestamp(expires)

    def authorize(self, request: web.Request) -> str:
        """Check the signature of a request, and return the path of its file.

        :raises StorageError: the signature is missing, wrong or expired.
        """
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
        """Store an upload. The file exists when all of its bytes have arrived."""
        name = self.authorize(request)
        upload = self.uploads.get(name)
        if upload is None:
            raise StorageError(404, "NoSuchKey", "The specified key does not exist.")
        if request.content_length is None:
            raise StorageError(
                411, "MissingContentLength", "You must provide the Content-Length HTTP header."
            )
        if request.content_length > self.max_upload_bytes:
            raise StorageError(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed size")
        partial_file = upload.path.with_suffix(f".{secrets.token_hex(4)}")
        sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        size = 0
        try:
            # Write in a thread, because a large upload must not delay other requests.
            file = await asyncio.to_thread(partial_file.open, "wb")
            try:
                async for chunk in request.content.iter_chunked(CHUNK_BYTES):
                    await asyncio.to_thread(file.write, chunk)
                    sha.update(chunk)
                    md5.update(chunk)
                    size += len(chunk)
            finally:
                await asyncio.to_thread(file.close)
            await asyncio.to_thread(partial_file.replace, upload.path)
        except BaseException:
            delete_file(partial_file)
            raise
        upload.digest, upload.size = sha.hexdigest(), size
        # The seven days begin now. Keep the uploads in the order in which they expire.
        upload.stored_at = self.clock.now()
        self.uploads.pop(name, None)
        self.uploads[name] = upload
        self._delete_surplus()
        return web.Response(headers={"ETag": f'"{md5.hexdigest()}"'})

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Send a result, or the requested range of it."""
        path = self.results.get(self.authorize(request))
        if path is None:
            raise StorageError(404, "NoSuchKey", "The specified key does not exist.")
        return ResultResponse(path)

    async def add(self, extension: str, content: bytes) -> str:
        """Store an upload without a signed URL."""
        name = self.new_upload(extension)
        upload = self.uploads[name]
        await asyncio.to_thread(upload.path.write_bytes, content)
        upload.digest, upload.size = hashlib.sha256(content).hexdigest(), len(content)
        self._delete_surplus()
        return name

    def _signature(self, method: str, name: str, query: str) -> str:
        signed = f"{method}\n{name}\n{query}".encode()
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()

    def _is_expired(self, upload: Upload) -> bool:
        return upload.stored_at <= self.clock.now() - UPLOAD_LIFETIME_SECONDS

    def _delete_expired(self) -> None:
        expired = itertools.takewhile(lambda item: self._is_expired(item[1]), self.uploads.items())
        for name in [name for name, _ in expired if not self.readers.get(name)]:
            self._delete(name)

    def _delete_surplus(self) -> None:
        total = sum(upload.size for upload in self.uploads.values())
        for name, upload in list(self.uploads.items()):
            if total <= self.max_bytes:
                return
            if not self.readers.get(name):
                total -= upload.size
                self._delete(name)

    def _delete(self, name: str) -> None:
        delete_file(self.uploads.pop(name).path)


def delete_file(path: Path) -> None:
    """Delete a file in a thread. Nothing needs to wait for this, because no file name is used twice."""
    asyncio.get_running_loop().run_in_executor(None, partial(path.unlink, missing_ok=True))


def base_url_of(request: web.Request) -> str:
    """Return the base URL that the client used, so that it can reach the signed URLs."""
    return f"{request.scheme}://{request.host}"


def xml_error(error: StorageError) -> web.Response:
    """Create an error response in S3's XML."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message>"
        f"<RequestId>{secrets.token_hex(8).upper()}</RequestId>"
        f"<ServerTime>{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}</ServerTime></Error>"
    )
    return web.Response(status=error.status, text=body, content_type="application/xml")
