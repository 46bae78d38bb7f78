"""Each file gets a place of its own and of its own type, before anything is sent to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from magichour_provider.api import flows
from magichour_provider.api.inputs import MediaType
from magichour_provider.api.models import UploadSlot
from magichour_provider.exceptions import UploadFailed


@dataclass(frozen=True)
class File:
    extension: str
    media_type: MediaType = "image"
    size: int = 5

    def chunks(self) -> Iterator[bytes]:
        yield b"photo"


PNG, JPG, WAV = File("png"), File("jpg"), File("wav", "audio")


def slot(name: str, number: int) -> UploadSlot:
    return UploadSlot(upload_url=f"https://storage.example/{number}", file_path=f"api-assets/{name}")


@pytest.mark.parametrize(
    ("files", "slots", "why"),
    [
        ([PNG, WAV], [slot("a.png", 1), slot("a.png", 2)], "the file_path of another file"),
        ([PNG, WAV], [slot("a", 1), slot("a", 2)], "the file_path of another file"),
        ([PNG, WAV], [slot("a.png", 1), slot("b.wav", 1)], "the upload_url of another file"),
        ([PNG, WAV], [slot("b.wav", 1), slot("a.png", 2)], r"ends in \.png, .* ends in \.wav"),
        ([PNG, JPG], [slot("b.jpg", 1), slot("a.png", 2)], r"ends in \.png, .* ends in \.jpg"),
        ([PNG], [slot("a.wav", 1)], r"ends in \.png, .* ends in \.wav"),
        ([PNG], [slot("a.jpg", 1)], r"ends in \.png, .* ends in \.jpg"),
    ],
)
def test_places_that_would_mix_up_two_files_are_refused(
    files: list[File], slots: list[UploadSlot], why: str
) -> None:
    with pytest.raises(UploadFailed, match=why) as failed:
        flows.check_slots(files, slots, [])
    assert (failed.value.retryable, failed.value.charged) == (True, "no")
    assert "nothing was charged" in str(failed.value)
    assert "storage.example" not in str(failed.value)


def test_the_place_of_a_file_that_has_been_sent_is_refused() -> None:
    with pytest.raises(UploadFailed, match="the file_path of another file"):
        flows.check_slots([PNG], [slot("a.png", 1)], ["api-assets/a.png"])


@pytest.mark.parametrize(
    ("extension", "name"),
    [
        ("png", "a.png"),
        ("png", "a.PNG"),
        ("png", "a"),
        ("jpeg", "a.jpg"),
        ("jfif", "a.jpeg"),
        ("tif", "a.tiff"),
    ],
)
def test_a_place_for_the_format_of_a_file_is_taken(extension: str, name: str) -> None:
    flows.check_slots([File(extension)], [slot(name, 1)], [])
