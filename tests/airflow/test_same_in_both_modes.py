"""
What goes wrong ends the same, waiting here or in the triggerer: charges, errors, what is on disk.

Each row is run once in each mode, with one retry; both are compared with what should be.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import magichour_provider

if TYPE_CHECKING:
    from harness import Airflow

    from magichour_provider.emulator import Emulator

STUBS = Path(magichour_provider.__file__).parent / "emulator"
MP4, WAV = (STUBS / "stub.mp4").read_bytes(), (STUBS / "stub.wav").read_bytes()


@dataclass(frozen=True)
class Ending:
    """What became of a task; ``errors`` are the causes of failed tries, ``videos`` the files on disk."""

    state: str
    errors: tuple[str, ...] = ()
    charges: int = 0
    refunds: int = 0
    videos: int = 0


FINE = Ending("success", charges=1, videos=1)
UNCERTAIN = Ending("failed", ("SubmissionUncertain",))
UNCERTAIN_AND_CHARGED = Ending("failed", ("SubmissionUncertain",), charges=1)


def refused(error: str) -> Ending:
    return Ending("failed", (error,))


def mended(*errors: str) -> Ending:
    return Ending("success", errors, charges=1, videos=1)


def row(row_id: str, ending: Ending, *, arguments: dict[str, Any] | None = None, **faults: Any) -> Any:
    """``faults`` are the emulator's, by the call that goes wrong."""
    return pytest.param(faults, arguments or {}, ending, id=row_id)


ALWAYS: dict[str, Any] = {"times": None}
FOUR: dict[str, Any] = {"times": 4}  # as often as the client tries within one task try
FOUR_OF_TWO: dict[str, Any] = {"times": 8}  # the photo and the voice go up side by side
IN_A_HURRY = {"magichour_conn_id": "hurried"}

SUBMITTING = [
    *(
        row(f"{status} is refused", refused(error), create={"status": status} | ALWAYS)
        for status, error in [
            (401, "Unauthorized"),
            (402, "InsufficientCredits"),
            (403, "Forbidden"),
            (422, "InvalidRequest"),
        ]
    ),
    row("429 is waited out", FINE, create={"status": 429, "headers": {"Retry-After": "1"}}),
    row("429 for long is left to the retry", mended("RateLimited"), create={"status": 429} | FOUR),
    row("429 for hours", mended("RateLimited"), create={"status": 429, "headers": {"Retry-After": "7200"}}),
    row("502 in the vendor's words", mended("Unavailable"), create={"status": 502}),
    row("503 in the vendor's words", mended("Unavailable"), create={"status": 503}),
    *(
        row(f"{status} may have paid", UNCERTAIN, create={"status": status} | ALWAYS)
        for status in (408, 500, 504)
    ),
    row("a gateway's 502", UNCERTAIN, create={"status": 502, "html": True} | ALWAYS),
    row("a gateway's 503", UNCERTAIN, create={"status": 503, "html": True} | ALWAYS),
    row("reset before it arrives", UNCERTAIN, create={"reset": "before"} | ALWAYS),
]
ANSWER_LOST = [
    row("500 after the charge", UNCERTAIN_AND_CHARGED, create={"status": 500, "effect": True}),
    row("a gateway's 502 after it", UNCERTAIN_AND_CHARGED, create={"html": True, "effect": True}),
    row("reset after it", UNCERTAIN_AND_CHARGED, create={"reset": "after"}),
    row("truncated 200", UNCERTAIN_AND_CHARGED, create={"truncate": 10}),
    row("empty 200", UNCERTAIN_AND_CHARGED, create={"truncate": 0}),
    row("cut 200", UNCERTAIN_AND_CHARGED, create={"cut": 10}),
    row("a page with 200", UNCERTAIN_AND_CHARGED, create={"status": 200, "html": True, "effect": True}),
    row(
        "200 without an id",
        UNCERTAIN_AND_CHARGED,
        create={"status": 200, "body": {"credits_charged": 48}, "effect": True},
    ),
    row("silence after it", UNCERTAIN_AND_CHARGED, create={"hang": 3, "effect": True}, arguments=IN_A_HURRY),
    row("an answer that drips", UNCERTAIN_AND_CHARGED, create={"slow": 5}, arguments=IN_A_HURRY),
]
UPLOADING = [
    row("upload URLs 500", FINE, upload_urls={"status": 500}),
    row("upload URLs 500 for long", mended("Unavailable"), upload_urls={"status": 500} | FOUR),
    row("upload URLs 401", refused("Unauthorized"), upload_urls={"status": 401} | ALWAYS),
    row("upload URL expired", FINE, put={"status": 403}),
    row("storage refuses for long", mended("UploadFailed"), put={"status": 403} | FOUR_OF_TWO),
    row("storage 503", FINE, put={"status": 503}),
    row("upload reset", FINE, put={"reset": "before"}),
    row("upload reset for long", mended("UploadFailed"), put={"reset": "before"} | FOUR_OF_TWO),
]
WAITING = [
    row("looks 500", FINE, get_video={"status": 500, "times": 3}),
    row("looks 503 as a page", FINE, get_video={"status": 503, "html": True, "times": 3}),
    row("looks 200 as a page", FINE, get_video={"status": 200, "html": True, "times": 3}),
    row("looks with bad JSON", FINE, get_video={"truncate": 20, "times": 3}),
    row("looks reset", FINE, get_video={"reset": "before", "times": 3}),
    row("looks 401 for a while", FINE, get_video={"status": 401, "times": 3}),
    row("looks 404 for a while", FINE, get_video={"status": 404, "times": 3}),
    row("looks 429", FINE, get_video={"status": 429, "headers": {"Retry-After": "1"}}),
    row(
        "an unknown status",
        FINE,
        get_video={"status": 200, "body": {"id": "cm1", "status": "polishing"}, "times": 3},
    ),
    row("one look 500 at delivery", FINE, get_video={"status": 500, "skip": 1}),
    row("one look 401 at delivery", FINE, get_video={"status": 401, "skip": 1}),
    row("looks 401 at delivery", mended("DownloadFailed"), get_video={"status": 401, "skip": 1} | FOUR),
    row("looks 404 at delivery", mended("DownloadFailed"), get_video={"status": 404, "skip": 1} | FOUR),
]
ENDING = [
    *(
        row(
            f"{code} is permanent",
            Ending("failed", ("JobFailed",), charges=1, refunds=1),
            create={"ends": f"error:{code}"} | ALWAYS,
        )
        for code in ("no_source_face", "content_policy_violation")
    ),
    *(
        row(
            f"{code} is tried anew",
            Ending("success", ("JobFailed",), charges=2, refunds=1, videos=1),
            create={"ends": f"error:{code}"},
        )
        for code in ("unknown_error", "processing_timeout", "a_new_code")
    ),
    row(
        "unknown_error each time",
        Ending("failed", ("JobFailed", "JobFailed"), charges=2, refunds=2),
        create={"ends": "error:unknown_error"} | ALWAYS,
    ),
    row(
        "canceled",
        Ending("failed", ("JobCanceled",), charges=1, refunds=1),
        create={"ends": "canceled"} | ALWAYS,
    ),
    row("deleted", Ending("failed", ("JobDeleted",), charges=1), create={"ends": "deleted"} | ALWAYS),
]
DOWNLOADING = [
    row("download URL expired", FINE, download={"status": 403}),
    row("download 500", FINE, download={"status": 500}),
    row("a page instead of a video", FINE, download={"status": 200, "html": True}),
    row("half a video", FINE, download={"cut": 100}),
    row("four bytes, as if whole", FINE, download={"truncate": 4}),
    row("download reset", FINE, download={"reset": "before"}),
    row("download 403 for long", mended("DownloadFailed"), download={"status": 403} | FOUR),
    row("half a video for long", mended("DownloadFailed"), download={"cut": 100} | FOUR),
    row(
        "half a video each time",
        Ending("failed", ("DownloadFailed", "DownloadFailed"), charges=1),
        download={"cut": 100} | ALWAYS,
    ),
]
REFUSED_HERE = [
    row("max_credits", refused("CreditLimitExceeded"), arguments={"max_credits": 47}),
    row("no such photo", refused("InvalidInput"), arguments={"image_file_path": "/no/such.jpg"}),
    row("an empty photo", refused("InvalidInput"), arguments={"image_file_path": "empty.jpg"}),
    row("a photo that is none", refused("InvalidInput"), arguments={"image_file_path": "{{ 'a.txt' }}"}),
    row("a text named as a photo", refused("InvalidInput"), arguments={"image_file_path": "text.jpg"}),
    row(
        "a clip after its voice",
        refused("InvalidInput"),
        arguments={"start_seconds": 4, "end_seconds": 5},
    ),
    row("no such connection", refused("InvalidConnection"), arguments={"magichour_conn_id": "nowhere"}),
    row("target exists", refused("TargetExists"), arguments={"output_path": "empty.jpg"}),
    row("target is a folder", refused("InvalidInput"), arguments={"output_path": "."}),
]


# Of a video the boxes tell; a voice, which may be of any kind, is whole when its length is.
AS_IF_WHOLE = row("half a video, as if whole", FINE, download={"truncate": 8000})

# A voice takes the same way; on its own are its routes, and what counts as a whole file.
VOICES = [SUBMITTING[0], *SUBMITTING[4:8], *ANSWER_LOST[:3], *WAITING, *ENDING, *DOWNLOADING]
ROUTES_OF_VOICES = {"create": "create_voice", "get_video": "get_audio", "download": "download"}


@pytest.mark.parametrize(
    ("faults", "arguments", "ending"),
    SUBMITTING + ANSWER_LOST + UPLOADING + WAITING + ENDING + DOWNLOADING + [AS_IF_WHOLE] + REFUSED_HERE,
)
def test_same_in_both_modes(
    airflow: Airflow,
    emulator: Emulator,
    monkeypatch: pytest.MonkeyPatch,
    faults: dict[str, dict[str, Any]],
    arguments: dict[str, Any],
    ending: Ending,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HURRIED", hurried(emulator))
    monkeypatch.chdir(airflow.folder)
    (airflow.folder / "empty.jpg").touch()
    (airflow.folder / "text.jpg").write_text("hello")
    for mode in ("sync", "deferrable"):
        assert (mode, outcome(airflow, emulator, "video", mode, faults, arguments)) == (mode, ending)
    if not faults:
        assert emulator.requests() == [], "what we refuse by ourselves is refused before anything is sent"


@pytest.mark.parametrize(("faults", "arguments", "ending"), VOICES)
def test_a_voice_ends_the_same_in_both_modes_and_as_a_video_does(
    airflow: Airflow,
    emulator: Emulator,
    faults: dict[str, dict[str, Any]],
    arguments: dict[str, Any],
    ending: Ending,
) -> None:
    of_voices = {ROUTES_OF_VOICES[call]: rule for call, rule in faults.items()}
    for mode in ("sync", "deferrable"):
        assert (mode, outcome(airflow, emulator, "voice", mode, of_voices, arguments)) == (mode, ending)


def outcome(
    airflow: Airflow,
    emulator: Emulator,
    task: str,
    mode: str,
    faults: dict[str, dict[str, Any]],
    arguments: dict[str, Any],
) -> Ending:
    """What becomes of a task with one retry."""
    emulator.clear_faults()
    for call, rule in faults.items():
        emulator.fault(call, **rule)
    folder = airflow.folder / mode
    where = {"output_path": f"{folder}/", "deferrable": mode == "deferrable", "retries": 1}
    run = (airflow.video if task == "video" else airflow.speak)(**(where | arguments))
    kinds = [entry["kind"] for entry in emulator.ledger(run.dag.dag_id)]
    on_disk = list(folder.iterdir()) if folder.exists() else []
    whole = {"video": MP4, "voice": WAV}[task]
    assert all(path.read_bytes() == whole for path in on_disk)
    return Ending(
        state=run.state(task),
        errors=tuple(type(error.__cause__).__name__ for error in run.raised(task)),
        charges=kinds.count("charge"),
        refunds=kinds.count("refund"),
        videos=len(on_disk),
    )


def hurried(emulator: Emulator) -> str:
    """The emulator's connection, with little patience."""
    return json.dumps(emulator.connection | {"extra": {"poll_interval": 0.02, "timeout": 0.5}})
