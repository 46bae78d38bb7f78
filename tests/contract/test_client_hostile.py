"""Whoever answers may say what he likes: no secret is repeated, nothing is taken for what it is not."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from both import BLOCKING, KEY, MODES, says, settings_for, stand_in, through

from magichour_provider.emulator import Emulator
from magichour_provider.exceptions import MagicHourError, UploadFailed
from magichour_provider.files.storage import Source


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(render="stub") as emulator:
        yield emulator


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "answer",
    [
        f'HTTP/1.1 401 No\r\nContent-Type: application/json\r\n\r\n{{"message": "Invalid API key: {KEY}"}}',
        f"HTTP/1.1 200 OK\r\nYour key is: bad header\r\n{KEY}\r\n\r\n",
        f"HTTP/1.1 {KEY}\r\n\r\n",
        f'HTTP/1.1 200 OK\r\n\r\n{{"status": "{KEY}"}}',
    ],
    ids=["message", "header", "status line", "body"],
)
def test_a_key_that_is_thrown_back_is_not_passed_on(
    mode: str, answer: str, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with stand_in(says(answer)) as server, pytest.raises(MagicHourError) as failed:
        through(mode, settings_for(server), lambda api: api.get("job-1"))
    assert KEY not in "".join(traceback.format_exception(failed.value)) + caplog.text


@pytest.mark.parametrize("mode", BLOCKING)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_an_upload_that_is_sent_elsewhere_has_not_arrived(
    emulator: Emulator, mode: str, status: int, tmp_path: Path, pauses: list[float]
) -> None:
    photo = tmp_path / "me.png"
    photo.write_bytes(b"a photo")
    source = Source.find("image_file_path", "image", str(photo))
    elsewhere = {"Location": f"{emulator.url}/"}  # which answers 200
    emulator.fault("put", status=status, headers=elsewhere, times=None)
    try:
        with pytest.raises(UploadFailed, match=f"HTTP {status}"):
            through(mode, settings_for(emulator), lambda api: api.upload([source]))
    finally:
        emulator.clear_faults()
